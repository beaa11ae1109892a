"""Training examples: conversations whose last turn thinks in full, is cut short, or corrects itself.

Text only: token ids are made in corpus.py. Lines of thought end in a newline, the separator of steps.
"""

import random
from dataclasses import dataclass

from engine.tasks.problem import Problem
from engine.tasks.registry import sample_any
from engine.tasks.smalltalk import draw_talk

CHECK_PHRASE = "Wait, let me check."
THINK_OPEN = "<think>\n"
THINK_CLOSE = "</think>\n\n"
NO_THOUGHT = "<think>\n\n</think>\n\n"

_SYSTEM_MESSAGES = (
    "You are a helpful assistant.",
    "You are a careful assistant. Think step by step.",
    "Answer briefly.",
    "You are mull, a terminal assistant.",
    "Be concise and exact.",
    "Reply with the answer only.",
)


@dataclass(frozen=True)
class Segment:
    """A piece of the last assistant turn; `keep` below 1 cuts it after that share of its tokens."""

    text: str
    learned: bool = True
    keep: float = 1.0


@dataclass(frozen=True)
class Message:
    """One earlier message of the conversation, without thinking."""

    role: str
    content: str


@dataclass(frozen=True)
class Example:
    """A conversation; only learned segments of its last turn carry loss."""

    history: tuple[Message, ...]
    prompt: str
    reply: tuple[Segment, ...]


def _thought(lines: tuple[str, ...] | list[str]) -> str:
    return "".join(line + "\n" for line in lines)


def _answered_directly(problem: Problem, rng: random.Random) -> list[Segment]:
    return [Segment(NO_THOUGHT, learned=False), Segment(problem.answer)]


def _thought_in_full(problem: Problem, rng: random.Random) -> list[Segment]:
    return [Segment(THINK_OPEN + _thought(problem.solution.lines) + THINK_CLOSE + problem.answer)]


def _thought_cut_short(problem: Problem, rng: random.Random) -> list[Segment]:
    """The thought stops anywhere; the best guess follows the forced close, which carries no loss."""
    lines = problem.solution.lines
    if rng.random() < 0.25:
        kept = Segment(THINK_OPEN + _thought(lines[: rng.randrange(len(lines))]))
        return [kept, Segment(THINK_CLOSE, learned=False), Segment(problem.answer)]
    kept = Segment(_thought(lines), keep=rng.random())
    return [
        Segment(THINK_OPEN),
        kept,
        Segment("\n" + THINK_CLOSE, learned=False),
        Segment(problem.answer),
    ]


def _corrected_at_once(problem: Problem, rng: random.Random) -> list[Segment]:
    """One or two wrong lines, without loss, each followed by the check phrase and the right line."""
    lines = problem.solution.lines
    count = min(len(problem.slippable), 1 if rng.random() < 0.7 else 2)
    segments, written = [Segment(THINK_OPEN)], 0
    for step in sorted(rng.sample(problem.slippable, count)):
        slipped = problem.solve_with_mistake(step, rng.getrandbits(32)).lines
        if step >= len(lines) or slipped[step] == lines[step]:
            continue
        segments += [
            Segment(_thought(lines[written:step])),
            Segment(slipped[step] + "\n", learned=False),
            Segment(CHECK_PHRASE + "\n"),
        ]
        written = step
    segments.append(Segment(_thought(lines[written:]) + THINK_CLOSE + problem.answer))
    return segments


def _redone_at_the_end(problem: Problem, rng: random.Random) -> list[Segment]:
    """A finished thought, half the time with a mistake carried along, is checked by doing it again."""
    segments = [Segment(THINK_OPEN)]
    if problem.slippable and rng.random() < 0.5:
        step = rng.choice(problem.slippable)
        slipped = problem.solve_with_mistake(step, rng.getrandbits(32)).lines
        segments += [
            Segment(_thought(slipped[:step])),
            Segment(_thought(slipped[step : step + 2]), learned=False),
            Segment(_thought(slipped[step + 2 :])),
        ]
    else:
        segments.append(Segment(_thought(problem.solution.lines)))
    again = CHECK_PHRASE + "\n" + _thought(problem.solution.lines)
    return [*segments, Segment(again + THINK_CLOSE + problem.answer)]


_WAYS = {
    _answered_directly: 0.14,
    _thought_cut_short: 0.20,
    _thought_in_full: 0.40,
    _corrected_at_once: 0.18,
    _redone_at_the_end: 0.08,
}
_TALK_SHARE = 0.11
_HISTORY_SHARE = 0.12
_SYSTEM_SHARE = 0.06


def _draw_history(rng: random.Random) -> tuple[Message, ...]:
    """An optional system message, then up to twenty unrelated exchanges, most often one to three."""
    messages = []
    if rng.random() < _SYSTEM_SHARE:
        messages.append(Message("system", rng.choice(_SYSTEM_MESSAGES)))
    if rng.random() < _HISTORY_SHARE:
        turns = rng.randint(4, 20) if rng.random() < 0.06 else rng.randint(1, 3)
        for _ in range(turns):
            if rng.random() < 0.2:
                talk = draw_talk(rng)
                prompt, reply = talk.prompt, talk.reply
            else:
                problem = sample_any(rng, "train")
                prompt, reply = problem.question, problem.answer
            messages += [Message("user", prompt), Message("assistant", reply)]
    return tuple(messages)


def draw_example(rng: random.Random) -> Example:
    """Draw one conversation; its problems are all from the training split."""
    history = _draw_history(rng)
    if rng.random() < _TALK_SHARE:
        talk = draw_talk(rng)
        if rng.random() < 0.4:
            reply = [Segment(NO_THOUGHT, learned=False), Segment(talk.reply)]
        else:
            reply = [Segment(THINK_OPEN + talk.thought + "\n" + THINK_CLOSE + talk.reply)]
        return Example(history, talk.prompt, tuple(reply))
    problem = sample_any(rng, "train")
    way = rng.choices(list(_WAYS), list(_WAYS.values()))[0]
    return Example(history, problem.question, tuple(way(problem, rng)))
