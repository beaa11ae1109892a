"""Training examples as token ids, in blocks of similar lengths; the same seed gives the same batches.

Knows the tokenizer and no torch.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from engine.tasks.examples import Example, draw_example
from engine.tasks.tokenizer import TURN_END, TURN_START

IGNORED = -100  # the label of a token without loss
POOL_EXAMPLES = 4000
LENGTH_MULTIPLE = 8
BLOCKS_PER_BATCH = 3
EASY_POOLS = 3  # training begins with short problems: more of them go into as many tokens


@dataclass(frozen=True)
class EncodedExample:
    """Token ids and, at the same positions, labels: the id itself where it is learned, else IGNORED."""

    ids: list[int]
    labels: list[int]


Block = list[EncodedExample]  # rows of similar lengths, padded to the longest
Batch = list[Block]  # the blocks of one step, long and short ones mixed


def _turn(role: str, content: str) -> str:
    return f"{TURN_START}{role}\n{content}{TURN_END}\n"


def encode(example: Example, tokenizer: PreTrainedTokenizerBase) -> EncodedExample:
    """Tokenize a conversation as the chat template renders it, its last turn piece by piece."""

    def tokenize(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    prompt = "".join(_turn(m.role, m.content) for m in example.history) + _turn("user", example.prompt)
    ids = tokenize(prompt + f"{TURN_START}assistant\n")
    labels = [IGNORED] * len(ids)
    for segment in example.reply:
        piece = tokenize(segment.text)
        piece = piece[: round(segment.keep * len(piece))]
        ids += piece
        labels += piece if segment.learned else [IGNORED] * len(piece)
    end = tokenizer.convert_tokens_to_ids(TURN_END)
    return EncodedExample([*ids, end], [*labels, end])


def padded_length(block: Block) -> int:
    """The length in tokens to which every row of the block is padded."""
    longest = max(len(example.ids) for example in block)
    return -(-longest // LENGTH_MULTIPLE) * LENGTH_MULTIPLE


def _split_by_length(pool: list[EncodedExample], block_tokens: int) -> list[Block]:
    blocks: list[Block] = []
    block: Block = []
    for example in pool:
        if block and padded_length([*block[-1:], example]) * (len(block) + 1) > block_tokens:
            blocks.append(block)
            block = []
        block.append(example)
    return [*blocks, block] if block else blocks


def pool_batches(
    tokenizer: PreTrainedTokenizerBase, seed: int, pool: int, batch_tokens: int, examples: int = POOL_EXAMPLES
) -> list[Batch]:
    """The batches of one pool of examples, in random order, each of about `batch_tokens` padded tokens."""
    rng = random.Random(f"{seed}/{pool}")
    encoded = [encode(draw_example(rng, easy=pool < EASY_POOLS), tokenizer) for _ in range(examples)]
    encoded.sort(key=lambda example: len(example.ids))
    blocks = _split_by_length(encoded, batch_tokens // BLOCKS_PER_BATCH)
    rng.shuffle(blocks)
    return [blocks[i : i + BLOCKS_PER_BATCH] for i in range(0, len(blocks), BLOCKS_PER_BATCH)]


def batch_stream(
    tokenizer: PreTrainedTokenizerBase, seed: int, batch_tokens: int, skip: int = 0, pool: int = 0
) -> Iterator[Batch]:
    """Batches without end, from a pool on; the first `skip` are passed over, to resume a training run."""
    while True:
        for batch in pool_batches(tokenizer, seed, pool, batch_tokens):
            if skip:
                skip -= 1
                continue
            yield batch
        pool += 1
