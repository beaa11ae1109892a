"""Which prefixes have their keys and values in pages: a tree of what pages contain. Knows no memory.

A page is found under a hash that stands for all tokens up to its end, h_i = blake2b(h_(i-1) ‖ int32 tokens);
h_0 is empty in memory, where there is one model, and the model's fingerprint on disk. The hash only finds:
the tokens are compared at each step from the root down.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np

PAGE = 64
"""Tokens per page."""
WORTH_COPYING = 8
"""Tokens in common with a part of a page from which on that part is copied: fewer are as soon forwarded."""


@dataclass(eq=False)
class Prefix:
    """A page's `tokens`, after those of its parents; fewer than PAGE where a sequence ended there."""

    digest: bytes
    tokens: tuple[int, ...] = ()
    page: int = -1
    parent: Prefix | None = None
    children: dict[bytes, Prefix] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """The longest known beginning of some ids: full pages, then `common` tokens of the page `partial`."""

    full: tuple[Prefix, ...]
    partial: Prefix | None
    common: int

    @property
    def tokens(self) -> int:
        return len(self.full) * PAGE + self.common


class PrefixTree:
    """Pages by what they contain and by what came before it."""

    def __init__(self) -> None:
        self._root = Prefix(b"")

    def full(self, ids: Sequence[int]) -> list[Prefix]:
        """The full pages known of the beginning of `ids`.

        Any thread may ask: it only looks up one page after the other. What it finds may be gone thereafter.
        """
        found: list[Prefix] = []
        last = self._root
        for begin in range(0, len(ids) - PAGE + 1, PAGE):
            child = _child(last, tuple(ids[begin : begin + PAGE]))
            if child is None:
                break
            found.append(child)
            last = child
        return found

    def find(self, ids: Sequence[int]) -> Found:
        """What is known of the beginning of `ids`."""
        full = self.full(ids)
        last = full[-1] if full else self._root
        rest = ids[len(full) * PAGE :]
        common, partial = max(
            ((_common(child.tokens, rest), child) for child in last.children.values()),
            key=lambda pair: pair[0],
            default=(0, None),
        )
        if common < WORTH_COPYING:
            common, partial = 0, None
        return Found(tuple(full), partial, common)

    def publish(self, ids: Sequence[int], pages: Iterable[int]) -> tuple[list[Prefix], list[Prefix]]:
        """Make the pages of a sequence known, the last one perhaps in part.

        Returns the pages that now stand for `ids`, which are those known before where there were any, and
        parts of pages that this made superfluous, taken out.
        """
        path: list[Prefix] = []
        superseded: list[Prefix] = []
        last = self._root
        for begin, page in zip(range(0, len(ids), PAGE), pages, strict=False):
            tokens = tuple(ids[begin : begin + PAGE])
            known = next((child for child in last.children.values() if _covers(child, tokens)), None)
            if known is None:
                digest = chained(last.digest, tokens)
                if digest in last.children:  # of other tokens: the hash cannot tell them apart
                    break
                parts = [child for child in last.children.values() if _covers_part(tokens, child)]
                superseded += [gone for part in parts for gone in self.remove(part)]
                known = last.children[digest] = Prefix(digest, tokens, page, last)
            path.append(known)
            last = known
        return path, superseded

    def remove(self, prefix: Prefix) -> list[Prefix]:
        """Forget a page and all that follow it, which cannot be found without it; returns them."""
        assert prefix.parent is not None
        del prefix.parent.children[prefix.digest]
        return list(_with_descendants(prefix))

    def __iter__(self) -> Iterator[Prefix]:
        """All pages, each after its parent."""
        for child in self._root.children.values():
            yield from _with_descendants(child)


def digests(fingerprint: bytes, ids: Sequence[int]) -> list[bytes]:
    """The hashes under which the full pages of `ids` are found."""
    found: list[bytes] = []
    for begin in range(0, len(ids) - PAGE + 1, PAGE):
        found.append(chained(found[-1] if found else fingerprint, ids[begin : begin + PAGE]))
    return found


def chained(digest: bytes, tokens: Sequence[int]) -> bytes:
    """The hash of a prefix from that of the prefix without its last page, and this page's tokens."""
    return blake2b(digest + np.asarray(tokens, "<i4").tobytes(), digest_size=32).digest()


def _child(parent: Prefix, tokens: tuple[int, ...]) -> Prefix | None:
    child = parent.children.get(chained(parent.digest, tokens))
    return child if child is not None and child.tokens == tokens else None


def _covers(child: Prefix, tokens: tuple[int, ...]) -> bool:
    return child.tokens[: len(tokens)] == tokens


def _covers_part(tokens: tuple[int, ...], child: Prefix) -> bool:
    return len(child.tokens) < len(tokens) and tokens[: len(child.tokens)] == child.tokens


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens two sequences have in common at their beginnings."""
    pairs = zip(left, right, strict=False)
    return next((at for at, (one, other) in enumerate(pairs) if one != other), min(len(left), len(right)))


def _with_descendants(prefix: Prefix) -> Iterator[Prefix]:
    """Without recursion: a chain of pages may be deeper than Python's stack."""
    waiting = [prefix]
    while waiting:
        yield (taken := waiting.pop())
        waiting += taken.children.values()
