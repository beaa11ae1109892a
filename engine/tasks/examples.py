"""Training examples: conversations whose last turn thinks in full, is cut short, or corrects itself.

Text only: token ids are made in corpus.py. Lines of thought end in a newline, the separator of steps.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from engine.tasks.problem import Problem
from engine.tasks.registry import sample, sample_any
from engine.tasks.smalltalk import draw_talk
from engine.tasks.steps import CHECK_PHRASE

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


_LONG_THOUGHT = 16  # lines; a thought as long is not written a second time


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
    if len(problem.solution.lines) >= _LONG_THOUGHT:
        return _corrected_at_once(problem, rng)
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


def _checked_after_the_answer(problem: Problem, rng: random.Random) -> list[Segment]:
    """The answer is written down, and the thought goes on: a line is read again, or all of them are."""
    lines = problem.solution.lines
    after = [f"So {problem.answer}."]
    if rng.random() < 0.6:
        after += [f"Check: {line}" for line in lines[-rng.randint(1, 2) :]]
    elif len(lines) < _LONG_THOUGHT:
        after += [CHECK_PHRASE, *lines]
    return [Segment(THINK_OPEN + _thought([*lines, *after]) + THINK_CLOSE + problem.answer)]


_Way = Callable[[Problem, random.Random], list[Segment]]
_WAYS: dict[_Way, float] = {
    _answered_directly: 0.10,
    _thought_cut_short: 0.20,
    _thought_in_full: 0.46,
    _corrected_at_once: 0.16,
    _redone_at_the_end: 0.04,
    _checked_after_the_answer: 0.04,
}
_TALK_SHARE = 0.09
_HISTORY_SHARE = 0.15
_SYSTEM_SHARE = 0.08
_CAREFUL = "Check your result."  # the system message under which a thought goes on after its answer


def _draw_system(rng: random.Random) -> tuple[Message, ...]:
    if rng.random() >= _SYSTEM_SHARE:
        return ()
    return (Message("system", rng.choice((*_SYSTEM_MESSAGES, _CAREFUL, _CAREFUL))),)


def _exchange(prompt: str, reply: str) -> list[Message]:
    return [Message("user", prompt), Message("assistant", reply)]


def _draw_history(rng: random.Random, family: str | None, asked: Problem | None) -> tuple[Message, ...]:
    """Up to twenty exchanges, mostly one to three: unrelated, of the same family, or the same question."""
    if rng.random() >= _HISTORY_SHARE:
        return ()
    messages: list[Message] = []
    turns = rng.randint(4, 20) if rng.random() < 0.06 else rng.randint(1, 3)
    for _ in range(turns):
        kind = rng.random()
        if kind < 0.2:
            talk = draw_talk(rng)
            messages += _exchange(talk.prompt, talk.reply)
        elif asked is not None and kind < 0.4:
            messages += _exchange(asked.question, asked.answer)
        elif family is not None and kind < 0.65:
            similar = sample(family, rng, "train")
            messages += _exchange(similar.question, similar.answer)
        else:
            problem = sample_any(rng, "train")
            messages += _exchange(problem.question, problem.answer)
    return tuple(messages)


def draw_example(rng: random.Random, easy: bool = False) -> Example:
    """Draw one conversation, on an easy problem where that is asked for; all are from the training split."""
    system = _draw_system(rng)
    if rng.random() < _TALK_SHARE:
        talk = draw_talk(rng)
        if rng.random() < 0.4:
            reply = [Segment(NO_THOUGHT, learned=False), Segment(talk.reply)]
        else:
            reply = [Segment(THINK_OPEN + talk.thought + "\n" + THINK_CLOSE + talk.reply)]
        return Example(system + _draw_history(rng, None, None), talk.prompt, tuple(reply))
    problem = sample_any(rng, "train", easy)
    history = system + _draw_history(rng, problem.family, problem)
    if system and system[0].content == _CAREFUL and rng.random() < 0.8:
        way: _Way = _checked_after_the_answer
    else:
        way = rng.choices(list(_WAYS), list(_WAYS.values()))[0]
    return Example(history, problem.question, tuple(way(problem, rng)))
