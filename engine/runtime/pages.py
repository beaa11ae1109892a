"""The memory for keys and values: pages of tokens that sequences hold, alone or together. Knows no model.

A page that is released with its tokens stays findable until its memory is needed: least recently used first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import torch

from engine.runtime.prefixes import PAGE, Prefix, PrefixTree, chained
from engine.runtime.storage import PlainStorage, Storage, StorageKind

__all__ = ["PAGE", "PagePool"]


class PagePool:
    """Keys and values of all layers in the pages of a `storage`.

    A page is held by the tables that it is in, or idle (held by none, its contents kept to be found), or
    free. Only a page that one table holds, and that cannot be found, is ever written.

    The pages of a table are kept in a row where nobody stands in the way: attention then reads them as they
    lie. Idle pages make room by moving, at the cost of a copy. The memory is reserved and not touched: on a
    CPU the system commits it as pages are written.
    """

    def __init__(
        self,
        layers: int,
        kv_heads: int,
        head_dim: int,
        pages: int,
        dtype: torch.dtype,
        device: str,
        kind: StorageKind = PlainStorage,
    ) -> None:
        """`dtype` is the one that the model computes in; how it is stored is the storage's affair."""
        self.storage: Storage = kind(layers, kv_heads, head_dim, pages, dtype, device)
        self._memory = self.storage.memory
        self.layers = layers
        self.pages = pages
        self.page_bytes = self._memory[:, :, :, 0].nbytes
        self._holders = [0] * pages
        self._free = set(range(pages))
        self._used: set[int] = set()
        self._tree = PrefixTree()
        self._known: dict[int, Prefix] = {}
        """What can be found, by page."""
        self._idle: dict[Prefix, None] = {}
        """What can be found and nobody holds, the least recently used first."""

    @property
    def page_shape(self) -> tuple[int, ...]:
        """Of a page's contents: [2, layers, kv_heads, PAGE, width], keys and values as they are stored."""
        return tuple(self._memory[:, :, :, 0].shape)

    @property
    def dtype(self) -> torch.dtype:
        return self._memory.dtype

    @property
    def held(self) -> int:
        """Pages that sequences hold now; one that several hold counts once."""
        return self.pages - self.available

    @property
    def idle(self) -> int:
        """Pages that nobody holds and whose contents can be found."""
        return len(self._idle)

    @property
    def available(self) -> int:
        """Pages that can be handed out."""
        return len(self._free) + len(self._idle)

    @property
    def touched(self) -> int:
        """Pages that were ever handed out: what a CPU has committed at most."""
        return len(self._used)

    @property
    def used_bytes(self) -> int:
        return self.held * self.page_bytes

    @property
    def allocated_bytes(self) -> int:
        """A CPU has committed at most the pages that were ever handed out."""
        return (self.touched if self._memory.device.type == "cpu" else self.pages) * self.page_bytes

    @property
    def idle_bytes(self) -> int:
        return self.idle * self.page_bytes

    def capacity(self, tokens: int) -> int:
        return self.pages // -(-tokens // PAGE)

    def match(self, ids: Sequence[int]) -> tuple[list[int], int]:
        """A table with the longest known beginning of `ids`, and how many tokens that is.

        Full pages are shared; a part of a page is copied, so that the table's holder may write after it.
        """
        found = self._tree.find(ids)
        table = self._hold(found.full)
        source = found.partial
        if source is None or not (self._free or self._idle.keys() - {source}):
            return table, len(table) * PAGE
        table.append(self._take(table, spared=source))
        self._copy(source.page, table[-1])
        if source in self._idle:
            self._idle[source] = self._idle.pop(source)
        return table, found.tokens

    def known(self, ids: Sequence[int]) -> list[Prefix]:
        """The full pages that can be found of the beginning of `ids`. Any thread may ask, as a hint."""
        return self._tree.full(ids)

    def contents(self, prefix: Prefix) -> torch.Tensor | None:
        """A copy of a page in the CPU's memory, of `page_shape`; None where it cannot be found any more."""
        if self._known.get(prefix.page) is not prefix:
            return None
        return self._memory[:, :, :, prefix.page].to("cpu", copy=True).contiguous()

    def restore(self, ids: Sequence[int], pages: Sequence[torch.Tensor]) -> int:
        """Let `pages`, the contents of the last full pages of `ids`, be found again. They must be verified.

        Returns how many tokens can be found now and could not before: fewer than were given where others
        hold the memory or had the same pages, none where what comes before is gone.
        """
        full = len(ids) // PAGE
        begin = full - len(pages)
        known = self._tree.full(ids)
        if len(known) < begin:
            return 0
        table = self._hold(known)
        for page in pages[len(known) - begin :]:
            if not self.available:
                break
            table.append(self._take(table))
            self._memory[:, :, :, table[-1]].copy_(page)
        self.release(table, ids[: len(table) * PAGE])
        return (len(self._tree.full(ids)) - len(known)) * PAGE

    def grow(self, table: list[int], pages: int) -> None:
        """Lengthen a table to at least `pages` pages. Raises MemoryError, with the table as it was."""
        missing = pages - len(table)
        if missing > self.available:
            raise MemoryError(f"{missing} pages are needed and {self.available} can be had")
        for _ in range(missing):
            table.append(self._take(table))

    def fork(self, table: Sequence[int], tokens: int) -> list[int]:
        """A second table over the first `tokens` tokens: full pages shared, a partial tail copied.

        Raises MemoryError.
        """
        full, rest = divmod(tokens, PAGE)
        if rest and not self.available:
            raise MemoryError("a page is needed and none can be had")
        forked = list(table[:full])
        for page in forked:
            self._holders[page] += 1
        if rest:
            forked.append(self._take(forked))
            self._copy(table[full], forked[full])
        return forked

    def shareable(self, tokens: int) -> int:
        """Full pages are shared."""
        return tokens - tokens % PAGE

    def publish(self, table: Sequence[int], ids: Sequence[int]) -> None:
        """Let the full pages of a table that goes on be found; `ids` are the tokens that its pages hold."""
        self._publish(table, ids[: len(ids) // PAGE * PAGE])

    def release(self, table: Sequence[int], ids: Sequence[int] = ()) -> None:
        """Take a table back. `ids` are the tokens that its pages hold: they can be found from now on."""
        if len(set(table)) != len(table) or not all(self._holders[page] for page in table):
            raise ValueError("a page was released that was not held")
        path = self._publish(table, ids)
        for page in table:
            self._holders[page] -= 1
            if not self._holders[page]:
                self._put(page)
        for prefix in reversed(path):  # the end of a conversation goes before its beginning
            if prefix in self._idle:
                self._idle[prefix] = self._idle.pop(prefix)

    def _publish(self, table: Sequence[int], ids: Sequence[int]) -> list[Prefix]:
        """What now stands for `ids`, and can be found."""
        path, superseded = self._tree.publish(ids, table)
        self._known |= {prefix.page: prefix for prefix in path}
        self._forget(superseded)
        return path

    def forget(self, table: Iterable[int]) -> None:
        """Let no page of a table be found any more, nor what follows it: its contents are in doubt."""
        for page in table:
            if page in self._known:
                self._forget(self._tree.remove(self._known[page]))

    def _hold(self, prefixes: Iterable[Prefix]) -> list[int]:
        """A table of pages that can be found, brought into a row as far as nobody else holds them."""
        table: list[int] = []
        for prefix in prefixes:
            if not self._holders[prefix.page]:
                self._move(prefix.page, self._place(table))
                del self._idle[prefix]
            self._holders[prefix.page] += 1
            table.append(prefix.page)
        return table

    def _put(self, page: int) -> None:
        """A page that nobody holds any more."""
        if page in self._known:
            self._idle[self._known[page]] = None
        else:
            self._free.add(page)

    def _forget(self, prefixes: Iterable[Prefix]) -> None:
        """Pages taken out of the tree become free, or their holders' own."""
        for prefix in prefixes:
            del self._known[prefix.page]
            if prefix in self._idle:
                del self._idle[prefix]
                self._free.add(prefix.page)

    def _take(self, table: Sequence[int], spared: Prefix | None = None) -> int:
        """A page to go after a table's last; something idle other than `spared` is given up for it."""
        if not self._free:
            oldest = next(prefix for prefix in self._idle if prefix is not spared)
            self._forget(self._tree.remove(oldest))
        place = self._place(table)
        if place not in self._free:
            self._move(place, max(self._free))
        self._free.remove(place)
        self._holders[place] = 1
        self._used.add(place)
        return place

    def _place(self, table: Sequence[int]) -> int:
        """Where a table's next page should lie: after its last, else at the first place that nobody holds."""
        after = table[-1] + 1 if table else 0
        if after < self.pages and not self._holders[after]:
            return after
        return self._holders.index(0)

    def _move(self, page: int, to: int) -> None:
        """Exchange two pages that nobody holds."""
        if page == to:
            return
        here, there = self._known.pop(page, None), self._known.pop(to, None)
        spare = self._memory[:, :, :, page].clone() if here and there else None
        if there:
            self._copy(to, page)
            self._known[page], there.page = there, page
        if here and spare is None:
            self._copy(page, to)
        elif spare is not None:
            self._memory[:, :, :, to] = spare
        if here:
            self._known[to], here.page = here, to
        if (page in self._free) != (to in self._free):
            self._free ^= {page, to}
        self._used |= {page, to}

    def _copy(self, page: int, to: int) -> None:
        self._memory[:, :, :, to].copy_(self._memory[:, :, :, page])

    def check_integrity(self, tables: Iterable[Sequence[int]]) -> None:
        """Raise AssertionError unless the books agree with the tables and with each other."""
        holders: Counter[int] = Counter()
        for table in tables:
            _require(len(set(table)) == len(table), "a page is twice in a table")
            holders.update(table)
        found = list(self._tree)
        idle = {prefix.page for prefix in self._idle}
        _require(holders == Counter(dict(enumerate(self._holders))), "a page has other holders than it says")
        _require({prefix.page: prefix for prefix in found} == self._known, "the tree has other pages")
        _require(len(found) == len(self._known), "a page is twice in the tree")
        _require(idle == self._known.keys() - holders.keys(), "what is idle is not what nobody holds")
        every = sorted([*self._free, *idle, *holders])
        _require(every == list(range(self.pages)), "a page is lost, or in two states")
        for prefix in found:
            _require(
                prefix.parent is not None and len(prefix.tokens) in range(1, PAGE + 1), "a page is empty"
            )
            assert prefix.parent is not None
            _require(prefix.parent.children[prefix.digest] is prefix, "a page is not where it is looked for")
            _require(chained(prefix.parent.digest, prefix.tokens) == prefix.digest, "a hash is wrong")
            _require(not prefix.children or len(prefix.tokens) == PAGE, "a page follows a partial one")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)
