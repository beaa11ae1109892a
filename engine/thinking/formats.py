"""Thinking formats: how a model family marks its thoughts, switches them on and off, and is made to end them.

The markers are resolved to ids of the loaded tokenizer; where that fails, a budget could not be enforced, so
it is an error and never silent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from engine.backend import Tokenizer
from engine.protocol import Message
from engine.tasks.steps import CHECK_PHRASE


class UnresolvedMarkers(ValueError):
    """The template marks thinking, but the tokenizer has no single token for a marker."""


@dataclass(frozen=True)
class ThinkingFormat:
    """What is known of a family. `signs` are substrings of the chat template, all of which must occur.

    `forced_end` is what is put into the model's mouth to end a thought; it contains the end marker. A family
    without `off` arguments is kept from thinking by ending its thought before it begins. `lead` comes after a
    forced end where nothing but a short answer is wanted, whose box a closing brace ends. `step_end` parts
    the steps of a thought. `wait` is what a thought that ends too early goes on with (s1, arXiv:2501.19393).
    """

    name: str
    signs: tuple[str, ...]
    forced_end: str
    start: str = "<think>"
    end: str = "</think>"
    on: Mapping[str, object] = field(default_factory=dict)
    off: Mapping[str, object] | None = None
    lead: str = "**Final Answer**\n\nThe final answer is \\boxed{"
    step_end: str = "\n\n"
    sums: bool = False
    """It writes sums as `12+7=19` while it thinks, and follows no instructions."""
    wait: str = "Wait"


_SWITCH: Mapping[str, object] = {"enable_thinking": True}
_SWITCH_OFF: Mapping[str, object] = {"enable_thinking": False}

FORMATS: tuple[ThinkingFormat, ...] = (
    # The bundled model; chosen by its name only, for its template looks like Qwen3's.
    ThinkingFormat(
        name="mull-tiny",
        signs=("mull-tiny",),
        forced_end="\n</think>\n\n",
        on=_SWITCH,
        off=_SWITCH_OFF,
        step_end="\n",
        sums=True,
        lead="",  # its answers are nothing else
        wait=f"{CHECK_PHRASE}\n",
    ),
    # The sentence is the one that the Qwen3 technical report (section 4.5) uses for its thinking budget.
    ThinkingFormat(
        name="qwen3",
        signs=("<|im_start|>", "<think>", "enable_thinking"),
        forced_end=(
            "\n\nConsidering the limited time by the user, I have to give the solution based on the thinking "
            "directly now.\n</think>\n\n"
        ),
        on=_SWITCH,
        off=_SWITCH_OFF,
    ),
    # DeepSeek-R1 and its distills: the template opens the thought itself and knows no way to switch it off.
    ThinkingFormat(name="deepseek-r1", signs=("<｜Assistant｜><think>",), forced_end="\n</think>\n\n"),
    ThinkingFormat(name="deepseek-r1", signs=("<｜Assistant｜>", "</think>"), forced_end="\n</think>\n\n"),
)


@dataclass(frozen=True)
class Resolved:
    """A format with its markers as ids of one tokenizer."""

    format: ThinkingFormat
    start: int
    end: int
    forced_end: tuple[int, ...]

    def step_ends(self, tokenizer: Tokenizer) -> frozenset[int]:
        """Ids that end a step of a thought; those of a line where no id ends with the separator."""
        return tokenizer.ending(self.format.step_end) or tokenizer.ending("\n")

    def prompt(
        self, tokenizer: Tokenizer, messages: Sequence[Message], think: bool
    ) -> tuple[list[int], bool]:
        """The prompt's ids, and whether its end already stands inside an open thought."""
        arguments = self.format.on if think else self.format.off or {}
        ids = tokenizer.render(messages, **arguments)
        tail = ids[-4:]  # a template opens the thought at most with the marker and white space after it
        opened = self.start in tail and self.end not in tail[tail.index(self.start) :]
        if opened and not think:
            return [*ids, *self.forced_end], False
        return ids, opened


def resolve(tokenizer: Tokenizer, name: str | None = None) -> Resolved | None:
    """The format of this tokenizer: the one named, else the first whose signs its template has; None if none.

    Raises UnresolvedMarkers.
    """
    for candidate in FORMATS:
        matches = all(sign in tokenizer.chat_template for sign in candidate.signs)
        if candidate.name == name or (name is None and matches):
            return _resolved(tokenizer, candidate)
    return None


def _resolved(tokenizer: Tokenizer, found: ThinkingFormat) -> Resolved:
    ids = []
    for marker in (found.start, found.end):
        encoded = tokenizer.encode(marker)
        if len(encoded) != 1 or tokenizer.decode(encoded) != marker:
            raise UnresolvedMarkers(
                f"the model marks its thinking with {marker!r} ({found.name}), but its tokenizer has no "
                "single token for it, so that thinking cannot be limited"
            )
        ids.append(encoded[0])
    forced = tuple(tokenizer.encode(found.forced_end))
    if ids[1] not in forced:
        raise UnresolvedMarkers(
            f"the phrase that ends a thought ({found.name}) loses its marker {found.end!r} in this tokenizer"
        )
    return Resolved(found, ids[0], ids[1], forced)
