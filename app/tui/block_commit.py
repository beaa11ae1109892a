"""Split arriving Markdown into finished blocks and a live tail, so that each block is parsed about once.

Pure text; knows nothing of widgets.
"""

from __future__ import annotations

import re

_FENCE = re.compile(r"[ \t]*(?P<marks>`{3,}|~{3,})(?P<info>.*)")


class BlockCommit:
    """Feed it chunks; it hands out blocks up to the last blank line outside a code fence.

    What was handed out plus `tail` is always exactly what was fed, however it was cut into chunks.
    """

    def __init__(self) -> None:
        self._pending = ""  # complete lines that no blank line has closed yet
        self._line = ""  # the line that is still being written
        self._fence = ""  # the marks that opened the current fence, or ""
        self._fence_at = 0  # where in _pending the text inside that fence begins

    @property
    def tail(self) -> str:
        """The text that is not yet committed."""
        return self._pending + self._line

    @property
    def open_code(self) -> str | None:
        """The code written so far inside an unclosed fence, or None outside of one."""
        return self._pending[self._fence_at :] + self._line if self._fence else None

    def feed(self, chunk: str) -> str:
        """Take the next chunk; returns the blocks that it completed, often none."""
        *lines, self._line = (self._line + chunk).split("\n")
        cut = 0
        parts = [self._pending]
        size = len(self._pending)
        for line in lines:
            parts.append(line + "\n")
            size += len(line) + 1
            self._track_fence(line, size)
            if not self._fence and not line.strip():
                cut = size
        pending = "".join(parts)
        self._pending = pending[cut:]
        self._fence_at -= cut
        return pending[:cut]

    def finish(self) -> str:
        """The rest, with nothing more to come."""
        rest, self._pending, self._line, self._fence = self.tail, "", "", ""
        return rest

    def _track_fence(self, line: str, end: int) -> None:
        found = _FENCE.fullmatch(line.rstrip("\r"))
        if found is None:
            return
        marks, info = found["marks"], found["info"]
        if not self._fence:
            if not (marks[0] == "`" and "`" in info):  # that would be inline code
                self._fence, self._fence_at = marks, end
        elif marks.startswith(self._fence) and not info.strip():
            self._fence = ""
