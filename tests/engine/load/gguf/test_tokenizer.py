"""The tokenizer of a GGUF file gives the ids that the model's own gives."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import pytest
from gguf_files import write_gguf
from random_checkpoint import save_checkpoint
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer

from engine.load.errors import ModelError
from engine.load.gguf.tokenizer import _merges
from engine.load.locate import locate
from engine.load.tokenizer import HubTokenizer
from engine.protocol import Message

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
TEXTS = [
    "Hello world, hello  worlds!  It's 12345 and 1,000,000.",
    "  leading and trailing  ",
    "def f(x):\n\treturn x**2\r\n\r\n",
    "Grüße, naïve façade: É 中文字 👩‍🚀 e\u0301",
    "<|im_start|>user\nWhat?<|im_end|>",
    "",
    " ",
    "<think>\nno\n</think>",
]
OTHER_WORDS = [
    "the lay over hello",
    "browning foxes",
    "jumped lazily overall",
    "leaders trail their world",
    "thelazy",
]
"""In which the order of merges decides: they are not in the corpus."""
CORPUS = [text * 3 for text in TEXTS] + ["the quick brown fox jumps over the lazy dog " * 9]


def write(path: Path, tokens: list[str], types: list[int], kind: str = "gpt2", **metadata: Any) -> Path:
    """A file with a vocabulary and nothing else of a model."""
    writer = gguf.GGUFWriter(path, metadata.pop("architecture", "llama"))
    writer.add_tokenizer_model(kind)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    for key, value in metadata.items():
        name = f"tokenizer.{key}" if key == "chat_template" else f"tokenizer.ggml.{key}"
        match value:
            case bool():
                writer.add_bool(name, value)
            case int():
                writer.add_uint32(name, value)
            case str():
                writer.add_string(name, value)
            case _:
                writer.add_array(name, value)
    writer.add_tensor("x", np.zeros(1, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def agree(path: Path, expected: Any, texts: list[str] = TEXTS) -> None:
    own = HubTokenizer(path)
    for text in texts:
        ids = own.encode(text)
        assert ids == expected.encode(text, add_special_tokens=False).ids, text
        assert own.decode(ids) == expected.decode(ids, skip_special_tokens=False), text


def byte_level() -> Tokenizer:
    """Trained on a few texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = Qwen2Tokenizer().backend_tokenizer.pre_tokenizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def as_lists(tokenizer: Tokenizer) -> tuple[list[str], list[int]]:
    """Tokens by id, and their types."""
    added = tokenizer.get_added_tokens_decoder()
    ids = {id: token for token, id in tokenizer.get_vocab(with_added_tokens=True).items()}
    types = [
        (CONTROL if added[id].special else USER_DEFINED) if id in added else NORMAL for id in range(len(ids))
    ]
    return [ids[id] for id in range(len(ids))], types


def merges(tokenizer: Tokenizer) -> list[str]:
    return [" ".join(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]


def test_qwen_splits_and_normalizes_as_transformers_own_tokenizer(tmp_path: Path) -> None:
    trained = byte_level()
    pairs = [tuple(merge.split(" ")) for merge in merges(trained)]
    expected = Qwen2Tokenizer(vocab=trained.get_vocab(), merges=pairs).backend_tokenizer
    expected.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    expected.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)])
    tokens, types = as_lists(expected)
    path = write(
        tmp_path / "q.gguf", tokens, types, pre="qwen2", merges=merges(trained), architecture="qwen3"
    )
    agree(path, expected)
    ends = {expected.token_to_id("<|im_end|>"), expected.token_to_id("<|endoftext|>")}
    assert HubTokenizer(path).eos_ids == ends
    plain = HubTokenizer(path).plain_ids()
    assert expected.token_to_id("<think>") in plain and not ends & set(plain), "what users defined is text"
    assert HubTokenizer(path).encode("E\u0301") == HubTokenizer(path).encode("É")


def test_llama_3_reads_three_digits_at_a_time_and_whole_words_first(tmp_path: Path) -> None:
    tokens = [*"0123456789abcĠ", "12", "123", "abc"]
    made = ["1 2", "12 3"]
    path = write(tmp_path / "l.gguf", tokens, [NORMAL] * len(tokens), pre="llama-bpe", merges=made)
    spelled = {id: token for token, id in HubTokenizer(path).vocabulary.items()}
    assert [spelled[id] for id in HubTokenizer(path).encode("12312 abc")] == ["123", "12", "Ġ", "a", "b", "c"]
    assert [spelled[id] for id in HubTokenizer(path).encode("abc")] == ["abc"], "though no merge makes it"
    old = write(tmp_path / "o.gguf", tokens, [NORMAL] * len(tokens), merges=made)
    assert HubTokenizer(old).encode("12312") == HubTokenizer(path).encode("12312"), (
        "without tokenizer.ggml.pre"
    )


def sentencepiece(prefixed: bool) -> Tokenizer:
    """BPE over characters with bytes for the rest, as Llama 2 and Gemma have it, trained on a few texts."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    spaces = normalizers.Replace(" ", "▁")
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if prefixed:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces])
        tokenizer.decoder = decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)])
    else:
        tokenizer.normalizer, tokenizer.decoder = spaces, decoders.Sequence(parts)
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=special[:3],
        initial_alphabet=["▁"],
        limit_alphabet=40,
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    # the trainer knows no bytes: they follow the vocabulary
    trained = sorted(tokenizer.get_vocab(with_added_tokens=False).items(), key=lambda entry: entry[1])
    pieces = [token for token, _ in trained[3:]]
    if prefixed:
        pieces.reverse()  # only the scores say what is merged first
    vocabulary = {token: id for id, token in enumerate([*special[:3], *pieces, *special[3:]])}
    pairs = [tuple(merge.split(" ")) for merge in merges(tokenizer)]
    tokenizer.model = models.BPE(
        vocab=vocabulary, merges=pairs, unk_token="<unk>", fuse_unk=True, byte_fallback=True
    )
    return tokenizer


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_sentencepiece_merges_follow_from_the_vocabulary(tmp_path: Path, architecture: str) -> None:
    expected = sentencepiece(prefixed=architecture == "llama")
    tokens, types = as_lists(expected)
    ranks = {merge.replace(" ", ""): -float(rank) for rank, merge in enumerate(merges(expected))}
    misleading = architecture == "gemma2"  # in Gemma's files they are
    scores = [float(id) if misleading else ranks.get(token, 0.0) for id, token in enumerate(tokens)]
    kinds = [BYTE if token.startswith("<0x") else kind for token, kind in zip(tokens, types, strict=True)]
    kinds[0] = UNKNOWN
    path = write(
        tmp_path / "s.gguf",
        [" " * len(token) if token and not token.strip("▁") else token for token in tokens],
        kinds,
        "llama",
        scores=scores,
        eos_token_id=2,
        bos_token_id=1,
        unknown_token_id=0,
        architecture=architecture,
    )
    agree(path, expected, [text for text in TEXTS if text] + OTHER_WORDS)
    assert HubTokenizer(path).eos_ids == {2}


def test_a_giant_token_is_looked_up_in_parts_only_where_tokens_are_as_long() -> None:
    looked_up: list[str] = []

    class Pieces(dict[str, int]):
        def get(self, token: str, default: Any = None) -> Any:
            looked_up.append(token)
            return super().get(token, default)

    tokens = ["", "a", "b", "ab", "aab", "a" * 5000 + "b", "a" * 9000]
    vocabulary = SimpleNamespace(
        pieces=Pieces({token: id for id, token in enumerate(tokens)}),
        ranks=lambda: [float(-id) for id in range(len(tokens))],
    )
    assert _merges(vocabulary) == [("a", "b"), ("a", "ab")]  # type: ignore[arg-type]
    assert len(looked_up) < 20


def test_control_tokens_are_found_whole_however_they_are_spelled(tmp_path: Path) -> None:
    """DeepSeek's, in a Qwen vocabulary, are beyond the byte alphabet."""
    trained = byte_level()
    tokens, types = as_lists(trained)
    tokens, types = [*tokens, "<｜User｜>", "[PAD501]"], [*types, CONTROL, 5]
    path = write(tmp_path / "d.gguf", tokens, types, pre="deepseek-r1-qwen", merges=merges(trained))
    own = HubTokenizer(path)
    assert own.encode("<｜User｜>")[0] == len(tokens) - 2 and own.size == len(tokens) - 1


def test_the_files_chat_template_renders_as_the_folders(tmp_path: Path) -> None:
    folder = locate("tiny")
    own, expected = HubTokenizer(write_gguf(folder, tmp_path / "t.gguf")), HubTokenizer(folder)
    assert own.has_template and own.chat_template == expected.chat_template
    conversation = [Message("system", "Be brief."), Message("user", "What is 12 + 30?")]
    spelled = own.decode(own.render(conversation))
    assert spelled == expected.decode(expected.render(conversation)) and "<|im_start|>assistant" in spelled
    assert not HubTokenizer(write_gguf(save_checkpoint(tmp_path / "m"), tmp_path / "m.gguf")).has_template


def test_templates_know_the_special_tokens_that_the_file_names(tmp_path: Path) -> None:
    template = "{{ bos_token }}{{ messages[0].content }}"
    given = {"bos_token_id": 0, "pre": "gpt-2", "chat_template": template}
    path = write(tmp_path / "b.gguf", ["<s>", "a"], [CONTROL, NORMAL], **given)
    assert HubTokenizer(path).render([Message("user", "aa")]) == [0, 1, 1]


def test_without_a_template_a_prompt_begins_as_the_file_says_that_texts_do(tmp_path: Path) -> None:
    tokens, types = ["<s>", "a", *"user: asitn"], [CONTROL, *[NORMAL] * 12]
    begun, ids = {"bos_token_id": 0, "pre": "gpt-2"}, {}
    for adds in (True, False, None):
        stated = {} if adds is None else {"add_bos_token": adds}
        own = HubTokenizer(write(tmp_path / f"{adds}.gguf", tokens, types, **begun, **stated))
        assert not own.has_template
        ids[adds] = own.render([Message("user", "aa")])
    assert ids[True] == [0, *ids[False]] and ids[None] == ids[False] and 0 not in ids[False]


def test_merges_of_tokens_that_are_not_there_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "b.gguf", ["a"], [NORMAL], merges=["a b"])
    with pytest.raises(ModelError, match="no readable tokenizer"):
        HubTokenizer(path)
