"""What a model's files say of its tokenizer, whatever their format."""

from __future__ import annotations

from dataclasses import dataclass

import tokenizers


@dataclass(frozen=True)
class TokenizerParts:
    """The tokenizer, the special tokens that templates name (`bos_token`), and what ends a text."""

    tokenizer: tokenizers.Tokenizer
    specials: dict[str, str]
    template: str | None
    eos_ids: frozenset[int]
    adds_bos: bool = False
    """Every text begins with `bos_token`; a template says so itself."""
