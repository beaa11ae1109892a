"""A conversation as Markdown for people: the latest path, each answer with its receipt. Text stays raw."""

from __future__ import annotations

import re
from collections.abc import Iterator

from app import figures
from app.sessions.session import Session, name_of
from app.sessions.tree import Tree, Turn
from engine.protocol import Answer

_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})(.*)$")
_ENDINGS = {
    "stopped": "stopped; this is what had been said",
    "interrupted": "interrupted; this is what had been said",
    "failed": "failed",
}


def render(session: Session) -> str:
    """The path to the latest turn; a receipt line says how many other answers there are."""
    tree = session.tree
    parts = [f"# {' '.join(session.name.split()) or 'Untitled'}", _about(session)]
    for turn in tree.path(session.latest):
        if turn.role == "assistant":
            parts += _answer(turn, tree)
        else:
            parts += ["## You" if turn.role == "user" else "## System", _quoted(turn.content)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _about(session: Session) -> str:
    lines = [f"Session `{session.id}`, {session.created:%Y-%m-%d %H:%M} UTC, mull {session.version}."]
    if session.damaged:
        lines.append(f"{session.damaged} damaged lines of its journal are left out.")
    return " ".join(lines)


def _answer(turn: Turn, tree: Tree) -> Iterator[str]:
    model = turn.answer.model if turn.answer else turn.request.spec.model if turn.request else "assistant"
    yield f"## {' '.join(model.split())}"
    if turn.thinking:
        yield "<details>\n<summary>Thinking</summary>"
        yield _fenced(turn.thinking)
        yield "</details>"
    yield _closed(turn.content.strip("\n"))
    if ending := _ENDINGS.get(turn.status):
        yield f"*({f'{ending}: {turn.error}' if turn.error else ending})*"
    if turn.answer:
        yield f"*{figures.receipt_line(turn.answer, tree.place(turn.id))}*"
        if turn.answer.settling is not None:
            yield f"*{figures.settled(turn.answer.settling)}*"
        yield from _left_out(turn.answer, tree)
        yield _table(turn)


def _left_out(answer: Answer, tree: Tree) -> Iterator[str]:
    """Which turns the model was not told for want of context, and what it was told in their place."""
    names = answer.receipt.state.turns_left_out
    asked = [name_of(tree[name].content) for name in names if name in tree and tree[name].role == "user"]
    if asked:
        how = figures.SUMMARIZED if answer.summary else figures.DROPPED
        first_to_last = " to ".join(f"“{question}”" for question in dict.fromkeys((asked[0], asked[-1])))
        yield f"*The context was full: {how} were the {len(names)} turns of {first_to_last}.*"
    if answer.summary:
        yield "<details>\n<summary>Summary of these turns</summary>"
        yield _fenced(answer.summary.text)
        yield "</details>"


def _table(turn: Turn) -> str:
    if turn.answer is None:
        return ""
    rows = "\n".join(
        f"| {row.label} | {row.text} | {row.mark} | {_cell(row.source)} |"
        for row in figures.main_figures(turn.answer.receipt)
    )
    return (
        "<details>\n<summary>Receipt</summary>\n\n"
        f"| figure | value | | how |\n|---|---:|---|---|\n{rows}\n\n{figures.LEGEND}\n\n</details>"
    )


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _quoted(text: str) -> str:
    """A person's words keep their Markdown to themselves."""
    return "\n".join(f"> {line}".rstrip() for line in text.strip("\n").split("\n"))


def _fenced(text: str) -> str:
    """Text as it is, in a fence longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    body = text.strip("\n")
    return f"{fence}text\n{body}\n{fence}"


def _closed(text: str) -> str:
    """Markdown whose last code fence is closed, so that a cut answer does not swallow what follows."""
    fence = ""
    for line in text.split("\n"):
        if found := _FENCE.match(line):
            mark, rest = found.groups()
            if not fence:
                fence = mark
            elif mark.startswith(fence) and not rest.strip():
                fence = ""
    return f"{text}\n{fence}" if fence else text
