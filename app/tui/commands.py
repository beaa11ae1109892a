"""The one registry of what can be done in the app: it makes keys, slash commands, palette and help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from app.tui import full_context

Where = Literal["anywhere", "prompt", "transcript"]


METHODS = (
    ("off", "cot where it may think, else direct"),
    ("auto", "what pays most for the question and the budget"),
    ("cot", "think, then answer"),
    ("exit", "think until the answer is settled"),
    ("refine:4", "think, and be told of wrong sums as they are written"),
    ("vote:8", "what most of up to 8 answers say"),
    ("deepconf:16", "likewise, and those that are not sure are given up midway"),
    ("best:8", "the soundest of 8 answers"),
    ("cascade", "at once; else think; else have 5 vote, until it is sure"),
    ("agent:16", "think with a calculator"),
    ("beam:8", "search step by step, keeping the best 8"),
    ("mcts:16", "search by 16 roll-outs"),
)
"""What `/method` can begin with; a number after the colon is how many."""


@dataclass(frozen=True)
class Command:
    """Something that a person can do. `keys` begin with the primary one; `slash` has no `/`."""

    id: str
    title: str
    help: str
    keys: tuple[str, ...] = ()
    where: Where = "anywhere"
    slash: str = ""
    argument: str = ""
    choices: tuple[tuple[str, str], ...] = ()
    """What the argument can begin with, and what each of them does."""
    priority: bool = False
    """Whether the key is taken before the focused widget sees it, and so before what was typed ahead of it:
    only for keys that must work at once, whatever still waits.
    """

    @property
    def action(self) -> str:
        """The name of the action on the part of the screen that it belongs to."""
        return self.id.replace("-", "_")

    @property
    def usage(self) -> str:
        """The slash command as it is typed."""
        return f"/{self.slash} {self.argument}".rstrip()


COMMANDS: tuple[Command, ...] = (
    # Writing
    Command("send", "Send", "send the prompt", ("enter",), "prompt"),
    Command(
        "newline", "New line", "start a new line; shift+enter where the terminal sends it",
        ("ctrl+j", "shift+enter"), "prompt",
    ),
    Command("older", "Older prompt", "on the first line: recall what was sent before", ("up",), "prompt"),
    Command("newer", "Newer prompt", "on the last line: back towards the present", ("down",), "prompt"),
    # Effort
    Command(
        "cycle-think", "Cycle thinking", "set how much the next answer may think, step by step",
        ("shift+tab",), slash="think", argument="off|N|max", priority=True,
        choices=(
            ("off", "answer at once, without thinking"),
            ("max", "think as long as it wants to, within the context"),
        ),
    ),
    Command(
        "think-more", "Think more", "raise the budget; while an answer thinks, its own",
        ("f4", "ctrl+up", "alt+equals_sign"),
    ),
    Command(
        "think-less", "Think less", "lower the budget; while an answer thinks, its own",
        ("f3", "ctrl+down", "alt+minus"),
    ),
    Command(
        "budget", "Budget", "the most that the whole of the next answers may spend",
        slash="budget", argument="off|2000tok|30s|2kJ|5TFLOP",
        choices=(("off", "no limit but the thinking's"),),
    ),
    Command(
        "method", "Method", "how the next answers are found",
        slash="method", argument="off|NAME",
        choices=METHODS,
    ),
    Command(
        "preview", "Preview", "what each method would cost for what is written, to choose one",
        ("f5",), slash="preview", argument="QUESTION",
    ),
    Command("settle", "Settle", "allow the next answers as much as the last one needed", slash="settle"),
    Command("answer-now", "Answer now", "end the thinking and answer", ("ctrl+t",)),
    Command("thoughts", "Show thoughts", "thoughts: hidden, one line, full", ("ctrl+o",)),
    # Answers
    Command(
        "leave", "Stop", "close what is open; stop the answer and keep its text; enter the transcript",
        ("escape",),
    ),
    Command("retry", "Retry", "answer the last prompt again, beside the answer there is", slash="retry"),
    Command("receipt", "Receipt", "what the last answer cost, figure by figure", slash="receipt"),
    # Conversation
    Command("new", "New conversation", "start a new conversation", ("ctrl+n",), slash="new"),
    Command(
        "overflow", "Full context", "what happens to this conversation when the context is full",
        slash="overflow", argument="stop|drop|summarize",
        choices=full_context.CHOICES,
    ),
    Command(
        "export", "Export", "write this conversation to a file",
        slash="export", argument="md|json FILE [--force]",
        choices=(
            ("md", "to read: what was said, thought and spent on this path"),
            ("json", "for programs: everything, with all variants"),
        ),
    ),
    # Transcript
    Command("next-turn", "Next turn", "move down", ("j", "down"), "transcript"),
    Command("previous-turn", "Previous turn", "move up", ("k", "up"), "transcript"),
    Command("first-turn", "First turn", "to the beginning", ("g", "home"), "transcript"),
    Command("last-turn", "Last turn", "to the end", ("G", "end"), "transcript"),
    Command("copy-turn", "Copy", "copy the text of the turn", ("y",), "transcript"),
    Command("retry-turn", "Retry", "answer again, beside this answer", ("r",), "transcript"),
    Command(
        "previous-sibling", "Previous variant", "the variant before this one",
        ("left_square_bracket",), "transcript",
    ),
    Command(
        "next-sibling", "Next variant", "the variant after this one",
        ("right_square_bracket",), "transcript",
    ),
    Command("receipt-turn", "Receipt", "what this answer cost, figure by figure", ("i",), "transcript"),
    Command("help-turn", "Help", "this page", ("question_mark",), "transcript"),
    Command("leave-transcript", "Back", "back to the prompt; so does typing", ("escape",), "transcript"),
    # App
    Command("help", "Help", "keys and commands", ("f1",), slash="help"),
    Command("meter", "Meter", "show or hide the meter", ("f9",), slash="meter"),
    Command(
        "theme", "Theme", "choose the colors", slash="theme", argument="dark|light|ansi",
        choices=(
            ("dark", "light text on a dark background"),
            ("light", "dark text on a light background"),
            ("ansi", "the terminal's own colors"),
        ),
    ),
    Command(
        "interrupt", "Interrupt", "copy the selection, else stop, else clear; twice to quit",
        ("ctrl+c",), priority=True,
    ),
    Command("quit", "Quit", "leave mull", ("ctrl+q",), slash="quit", priority=True),
)  # fmt: skip


def find_slash(name: str) -> Command | None:
    """The command with this slash name."""
    return next((command for command in COMMANDS if command.slash == name), None) if name else None


def completions(text: str) -> list[tuple[str, str]]:
    """What the text being typed could become: pairs of the completed text and its explanation."""
    if not text.startswith("/") or "\n" in text:
        return []
    name, space, argument = text[1:].partition(" ")
    if not space:
        return [
            (f"/{c.slash} " if c.argument else f"/{c.slash}", f"{c.argument}  {c.help}".strip())
            for c in COMMANDS
            if c.slash and c.slash.startswith(name)
        ]
    command = find_slash(name)
    if command is None:
        return []
    return [
        (f"/{name} {choice}", does)
        for choice, does in command.choices
        if choice.startswith(argument) and choice != argument
    ]
