"""From the registry of commands to Textual's bindings, and how keys are written for people."""

from __future__ import annotations

from textual.binding import Binding, BindingType

from app.tui.commands import COMMANDS, Command, Where

_LABELS = {
    "escape": "esc",
    "question_mark": "?",
    "left_square_bracket": "[",
    "right_square_bracket": "]",
    "minus": "-",
    "equals_sign": "=",
    "up": "↑",
    "down": "↓",
}


def bindings(where: Where) -> list[BindingType]:
    """The bindings of the commands that belong to this part of the screen."""
    return [
        Binding(
            ",".join(command.keys),
            command.action,
            command.title,
            show=False,
            priority=command.priority,
            id=command.id,
        )
        for command in COMMANDS
        if command.where == where and command.keys
    ]


def label(key: str) -> str:
    """A key as people write it: `ctrl+t` is `^T`, `f3` is `F3`."""
    *modifiers, name = key.split("+")
    name = _LABELS.get(name, name)
    if modifiers == ["ctrl"] and len(name) == 1 and name.isalpha():
        return f"^{name.upper()}"
    if _is_function_key(name):
        name = name.upper()
    return "+".join([*modifiers, name])


def _is_function_key(name: str) -> bool:
    return name[:1] == "f" and name[1:].isdigit()


def labels(command: Command) -> str:
    """All keys of a command, the first one first."""
    return " · ".join(label(key) for key in command.keys)
