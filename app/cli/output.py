"""What commands print: JSON, tables and one-line errors; sanitized where it goes to a terminal."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Sequence

import click

from app.errors import CommandError
from app.sanitise import clean, clean_line


def show(text: str) -> None:
    """Print text: sanitized on a terminal, raw and in UTF-8 in a pipe or a file."""
    on_screen = sys.stdout.isatty()
    click.echo(clean(text) if on_screen else text.encode(errors="replace"), nl=not text.endswith("\n"))


def show_json(value: object) -> None:
    """Print structs or plain data as indented JSON."""
    import msgspec

    show(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def show_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under headings in columns as wide as their widest cell; each cell on one line."""
    table = [[clean_line(cell) for cell in row] for row in (headings, *rows)]
    widths = [max(cell_width(row[column]) for row in table) for column in range(len(headings))]
    for number, row in enumerate(table):
        line = "  ".join(
            cell + " " * (width - cell_width(cell)) for cell, width in zip(row, widths, strict=True)
        )
        click.echo(click.style(line.rstrip(), bold=True) if number == 0 else line.rstrip())


def cell_width(text: str) -> int:
    """Columns that a terminal takes for a line: two for wide characters, none for combining ones."""
    return sum(
        0 if unicodedata.category(character) in ("Mn", "Me", "Cf") else 1 + _is_wide(character)
        for character in text
    )


def _is_wide(character: str) -> bool:
    return unicodedata.east_asian_width(character) in "WF"


def cut(text: str, width: int) -> str:
    """A line's beginning that takes no more columns than that."""
    taken = 0
    for at, character in enumerate(text):
        taken += cell_width(character)
        if taken > width:
            return text[:at]
    return text


def warn(text: str) -> None:
    """One line on stderr; the command goes on."""
    click.echo(f"mull: {clean_line(text)}", err=True)


def show_error(error: CommandError) -> None:
    """The one line that a person reads when a command fails."""
    warn(str(error))


class StatusLine:
    """One line on a terminal's stderr that is overwritten, and gone when the result comes."""

    def __init__(self) -> None:
        self._enabled = sys.stderr.isatty()
        self._shown = False

    def show(self, text: str) -> None:
        if self._enabled:
            click.echo("\r\x1b[K" + click.style(clean(text), dim=True), nl=False, err=True)
            self._shown = True

    def clear(self) -> None:
        if self._shown:
            click.echo("\r\x1b[K", nl=False, err=True)
            self._shown = False


class LiveLines:
    """Some lines on a terminal that are drawn anew in their place; elsewhere they are printed as they end."""

    def __init__(self) -> None:
        self._enabled = sys.stdout.isatty()
        self._drawn = 0

    def show(self, lines: Sequence[str]) -> None:
        if self._enabled:
            up = f"\x1b[{self._drawn}F" if self._drawn else ""
            click.echo(up + "\n".join(f"\x1b[K{clean(line)}" for line in lines))
            self._drawn = len(lines)

    def end(self, lines: Sequence[str]) -> None:
        """The lines as they stay."""
        self.show(lines)
        if not self._enabled:
            for line in lines:
                show(line)
