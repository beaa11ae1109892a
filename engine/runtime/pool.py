"""What holds the memory of sequences, whatever it consists of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol


class Pool(Protocol):
    """Gives sequences memory for what they have computed; a sequence's table says which is its own."""

    @property
    def available(self) -> int:
        """Pages that can be handed out."""
        ...

    @property
    def idle(self) -> int:
        """Of these, the pages whose contents are kept from earlier sequences."""
        ...

    @property
    def used_bytes(self) -> int:
        """Of what sequences hold now."""
        ...

    @property
    def allocated_bytes(self) -> int:
        """Of what is backed by memory."""
        ...

    @property
    def idle_bytes(self) -> int:
        """Of what is kept from earlier sequences."""
        ...

    def capacity(self, tokens: int) -> int:
        """Sequences of so many tokens that there is memory for at once, sharing nothing."""
        ...

    def match(self, ids: Sequence[int]) -> tuple[list[int], int]:
        """A table with the longest known beginning of `ids`, and how many tokens that is."""
        ...

    def grow(self, table: list[int], pages: int) -> None:
        """Hold memory for so many pages of tokens. Raises MemoryError, with the table as it was."""
        ...

    def fork(self, table: Sequence[int], tokens: int) -> list[int]:
        """A second table over the first `tokens` tokens. Raises MemoryError."""
        ...

    def shareable(self, tokens: int) -> int:
        """Of the first `tokens` tokens, those that a fork has without memory of its own."""
        ...

    def publish(self, table: Sequence[int], ids: Sequence[int]) -> None:
        """Let others find what a table that goes on has of `ids`, as far as that can be shared."""
        ...

    def release(self, table: Sequence[int], ids: Sequence[int] = ()) -> None:
        """Take a table back. `ids` are the tokens that it has: they may be found from now on."""
        ...

    def forget(self, table: Iterable[int]) -> None:
        """Let nothing of a table be found: its contents are in doubt."""
        ...
