"""agent:K: think with tools; at most K calls, each answered on the spot within the thought.

The system message tells a model of its tools: a line `CALC: expression` is answered by a line `= value`, and
where that is allowed, Python between lines `PYTHON:` and `END` by what it prints. The thought then goes on,
to plan, to call, or to look at what came back: ReAct (arXiv:2210.03629) in one thought and one cache. The
bundled model follows no instructions, but writes sums as `12+7=19`: for it the calculator writes what comes
after the sign.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress

from engine.protocol import Message, TreeNode
from engine.thinking.context import Context
from engine.thinking.formats import Resolved
from engine.thinking.sandbox import Ran, run_python
from engine.thinking.tools import CannotCalculate, calculate, written

CALC = re.compile(r"(?:^|\n)CALC:([^\n]*)\n\Z")
PYTHON = re.compile(r"(?:^|\n)PYTHON:[^\n]*\n(.*)\nEND[^\S\n]*\n\Z", re.DOTALL)
SUM = re.compile(r"(?<![\w.)<>-])(\(*\d[\d()]*(?:[+*/×x·-][\d()]+)+)=\Z")
"""The beginning of a line that the calculator completes: operations on whole numbers."""
MOST_SHOWN = 2000
"""Characters of what a program prints that the model is shown: the last."""
LOOK_S = 0.1
"""Between looks whether a program is still wanted."""

ABOUT_CALC = """\
While you think you can use a calculator. Write on a line of its own
CALC: expression
with numbers, brackets and + - * / // % **. The next line will be its exact value, after an equals sign."""
ABOUT_PYTHON = """
You can run Python, too: write PYTHON: on a line, the program below it, and END on the line after it. The \
next line will be what it prints, after an equals sign."""
ABOUT_COUNT = """
You may do so {count} times. Plan first, and look at each result before you go on."""


def introduced(
    messages: tuple[Message, ...], style: Resolved | None, calls: int, python: bool
) -> tuple[Message, ...]:
    """The conversation with the tools in its system message; a model that sums as it writes needs none."""
    if style is None or style.format.sums:
        return messages
    about = ABOUT_CALC + (ABOUT_PYTHON if python else "") + ABOUT_COUNT.format(count=calls)
    first = messages[0]
    if first.role == "system":
        return Message("system", f"{first.content}\n\n{about}", id=first.id), *messages[1:]
    return Message("system", about), *messages


async def run(ctx: Context) -> None:
    """Think, answer the calls that the thought makes, and answer."""
    node = await ctx.prefill()
    if ctx.format is None or not ctx.budget.thinks:
        await ctx.reply()
        return
    sums = ctx.format.format.sums
    halts = ctx.backend.tokenizer.ending("=" if sums else "\n")
    calls, read = 0, 0
    while await ctx.think(node, pause=halts if calls < ctx.number else frozenset()):
        thought = ctx.thinking[read:]
        result = summed(thought) if sums else await _called(ctx, thought)
        if result is not None and await ctx.add(node, _plain(ctx, result)):
            _tell(ctx, calls, thought, ctx.thinking[read + len(thought) :])
            calls, read = calls + 1, len(ctx.thinking)
    if calls:
        _tell(ctx, calls, ctx.thinking[read:])
    await ctx.say(node)
    ctx.finish()


def summed(thought: str) -> str | None:
    """What comes after the equals sign that ends a thought; None where that is not for the calculator."""
    found = SUM.search(thought)
    if found is None:
        return None
    try:
        value = calculate(found[1])
    except CannotCalculate:
        return None
    return written(value) if value >= 0 and value.denominator == 1 else None


async def _called(ctx: Context, thought: str) -> str | None:
    """The line that answers the call with which a thought ends; None where it ends with none."""
    if found := CALC.search(thought):
        try:
            return f"= {written(calculate(found[1]))}\n"
        except CannotCalculate as error:
            return f"= error: {error}\n"
    if ctx.python and (found := PYTHON.search(thought)):
        ran = await _run(ctx, found[1])
        said = ran.stdout.strip()[-MOST_SHOWN:]
        if ran.status != "ok":
            said += f" error: {ran.stderr.strip().rpartition(chr(10))[2] or ran.status}"
        return f"= {said.strip() or 'it printed nothing'}\n"
    return None


async def _run(ctx: Context, program: str) -> Ran:
    """Run a program; it is stopped where nobody waits for it any more."""
    running = asyncio.create_task(run_python(program))
    while not (await asyncio.wait({running}, timeout=LOOK_S))[0]:
        if ctx.budget.lease.cancelled or ctx.hurried:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
            return Ran("timeout", "", "stopped", 0.0)
    return running.result()


def _plain(ctx: Context, text: str) -> str:
    """A tool's text, in which nothing is read as one of the model's own marks."""
    assert ctx.format is not None
    markers = filter(None, (ctx.format.format.start, ctx.format.format.end))
    special = (*markers, "<|", "<｜", "</s>")
    return text.replace("<", "‹").replace("[", "‹") if any(mark in text for mark in special) else text


def _tell(ctx: Context, calls: int, thought: str, result: str | None = None) -> None:
    """A piece of thought, and what its call was answered with."""
    encode = ctx.backend.tokenizer.encode
    last = f"call {calls}" if calls else ""
    piece = f"thought {calls + 1}"
    ctx.tell(TreeNode(id=piece, parent=last, text=thought, tokens=len(encode(thought)), kept=True))
    if result is not None:
        name, tokens = f"call {calls + 1}", len(encode(result))
        ctx.tell(TreeNode(id=name, parent=piece, kind="call", text=result, tokens=tokens, kept=True))
