"""The tokenizer of a GGUF file's metadata, as the model's own tokenizer.json would have it.

transformers' conversion is not used: where it does not know how a vocabulary splits text it takes GPT-2's
way, and it leaves out special tokens that are spelled beyond the byte alphabet, such as DeepSeek's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from engine.load.errors import ModelError
from engine.load.gguf.header import Header
from engine.load.tokenizer_parts import TokenizerParts

_UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = 2, 3, 4, 5
"""Token types, from llama.h; all others are pieces of text."""
_PADDING = re.compile(r"\[PAD\d+\]")
"""What conversions fill a vocabulary up with to the size of the embedding."""
_SPACE = "▁"

_SPECIAL = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
_ENDS = ("eos", "eot", "eom")
_END_TEXTS = frozenset(
    ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<end_of_turn>", "<|end|>")
)
"""Control tokens that end a turn, whatever the file says: it names one where models have several."""

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_WORDS}|\p{{N}}{{1,3}}|{_REST}"
_QWEN2 = rf"{_WORDS}|\p{{N}}|{_REST}"
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLITS = {
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "tekken": _TEKKEN,
}
_WHOLE_FIRST = ("llama-bpe", "llama3", "llama-v3", "tekken")
"""Vocabularies in which a word that is a token is never put together from parts."""
_OF_OLD_FILES = {"llama": "llama-bpe"}
"""What files that do not say mean, by architecture; else Qwen's."""


def read_tokenizer(header: Header) -> TokenizerParts:
    """Raises ModelError for a kind of vocabulary that is not read."""
    kind = header.metadata.get("tokenizer.ggml.model")
    try:
        vocabulary = _Vocabulary(header)
        if kind == "gpt2":
            tokenizer = _byte_level(vocabulary)
        elif kind == "llama":
            tokenizer = _sentencepiece(vocabulary)
        else:
            raise vocabulary.unread(f"a vocabulary of the kind {str(kind)[:40]!r}")
        vocabulary.add_whole_tokens(tokenizer)
    except ModelError:
        raise
    except Exception as error:  # the library raises a bare Exception
        raise ModelError(f"{header.path} has no readable tokenizer: {error}", "download it again") from error
    template = header.metadata.get("tokenizer.chat_template")
    return TokenizerParts(
        tokenizer,
        {name: text for name, key in _SPECIAL.items() if (text := vocabulary.text_of(key)) is not None},
        template if isinstance(template, str) else None,
        vocabulary.ends(),
        vocabulary.read("add_bos_token") is True,
    )


class _Vocabulary:
    """The tokens of a file, with their types; `pieces` are their ids by how the model spells them."""

    def __init__(self, header: Header) -> None:
        self._header = header
        tokens, types = self.read("tokens"), self.read("token_type")
        if not isinstance(tokens, list) or not tokens:
            raise ModelError(f"{header.path} has no vocabulary", "use another conversion of this model")
        if types is not None and len(types) != len(tokens):
            raise self.unread(f"{len(tokens)} tokens with {len(types)} types")
        self.tokens: list[str] = tokens
        self._types: Sequence[int] = types if types is not None else [1] * len(tokens)
        self._spaces = header.metadata.get("tokenizer.ggml.model") == "llama"
        self.pieces = {
            self._spelled(token): id
            for id, (token, kind) in enumerate(zip(tokens, self._types, strict=True))
            if not (kind == _UNUSED and _PADDING.fullmatch(token))
        }

    @property
    def gemma(self) -> bool:
        return self._header.architecture.startswith("gemma")

    @property
    def split(self) -> str:
        """How text is split before merging, by the name that llama.cpp has for it."""
        found = self.read("pre")
        if isinstance(found, str) and found != "default":
            return found
        return _OF_OLD_FILES.get(self._header.architecture, "qwen2")

    def read(self, key: str) -> Any:
        return self._header.metadata.get(f"tokenizer.ggml.{key}")

    def text_of(self, name: str) -> str | None:
        """A special token by its role."""
        id = self.read(f"{name}_token_id")
        return self.tokens[id] if isinstance(id, int) and 0 <= id < len(self.tokens) else None

    def ends(self) -> frozenset[int]:
        named = (self.read(f"{name}_token_id") for name in _ENDS)
        there = (id for id in named if isinstance(id, int) and id < len(self.tokens))
        known = (id for token, id in self.pieces.items() if token in _END_TEXTS and self._whole(id))
        return frozenset([*there, *known])

    def ranks(self) -> list[float]:
        """How early each token is merged: by the scores of the file, but Gemma's, by the tokens' order."""
        scores = self.read("scores")
        if self.gemma or scores is None or len(scores) != len(self.tokens):
            return [float(-id) for id in range(len(self.tokens))]
        return list(scores)

    def add_whole_tokens(self, tokenizer: Tokenizer) -> None:
        """Tokens that are found in a text before anything else: control tokens and those users defined."""
        special: list[str] = []
        plain: list[str] = []
        for token, id in self.pieces.items():
            if self._whole(id):
                (plain if self._types[id] == _USER_DEFINED else special).append(token)
        tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
        tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in plain])

    def unread(self, what: str) -> ModelError:
        return ModelError(f"{self._header.path} has {what}, which is not read", "use the safetensors model")

    def _whole(self, id: int) -> bool:
        token = self.tokens[id]
        return self._types[id] in (_CONTROL, _USER_DEFINED, _UNKNOWN) and self._spelled(token) == token

    def _spelled(self, token: str) -> str:
        """Conversions spell runs of spaces of a SentencePiece vocabulary as spaces."""
        return _SPACE * len(token) if self._spaces and token and not token.strip(" ") else token


def _byte_level(vocabulary: _Vocabulary) -> Tokenizer:
    """Byte-level BPE, with merges that the file lists."""
    listed = vocabulary.read("merges")
    merges = [tuple(merge.split(" ", 1)) for merge in listed] if isinstance(listed, list) else []
    split = vocabulary.split
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary.pieces, merges=merges, ignore_merges=split in _WHOLE_FIRST)
    )
    if split == "gpt-2":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    elif split == "smollm":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    elif split in _SPLITS:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_SPLITS[split]), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    else:
        raise vocabulary.unread(f"a vocabulary that splits text as {split[:40]!r} does")
    if split == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(vocabulary: _Vocabulary) -> Tokenizer:
    """BPE over characters, bytes where a character is not known; merges follow from the vocabulary."""
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary.pieces,
            merges=_merges(vocabulary),
            unk_token=vocabulary.text_of("unknown"),
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    spaces = normalizers.Replace(" ", _SPACE)
    steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    prefixed = vocabulary.read("add_space_prefix")
    if prefixed if prefixed is not None else not vocabulary.gemma:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), spaces])
        steps.append(decoders.Strip(content=" ", left=1, right=0))
    else:
        tokenizer.normalizer = spaces
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


def _merges(vocabulary: _Vocabulary) -> list[tuple[str, str]]:
    """All pairs of tokens that make a token, the best first.

    A token is cut only where both parts are as long as some token: a file may have tokens of any length.
    """
    pieces, ranks = vocabulary.pieces, vocabulary.ranks()
    lengths = {len(token) for token in pieces if token}
    cuts = {length: [cut for cut in lengths if length - cut in lengths] for length in lengths}
    found = []
    for token, id in pieces.items():
        for cut in cuts.get(len(token), ()):
            left = pieces.get(token[:cut])
            if left is not None and (right := pieces.get(token[cut:])) is not None:
                found.append((-ranks[id], id, left, right, token[:cut], token[cut:]))
    return [(left, right) for *_, left, right in sorted(found)]
