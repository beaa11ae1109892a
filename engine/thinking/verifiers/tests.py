"""Judges code by running tests against it, in the sandbox. Knows no model.

Each `test…` function, each `assert` at the file's top level and each unittest case is a test; where there is
none, the calls at its top level are (`check(solve)`). What else the file holds runs once, in order. Tests see
the code's names as their own, or import them from `solution`.
"""

from __future__ import annotations

import ast
import asyncio
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.tasks.answer_types import code_in
from engine.thinking.context import Context
from engine.thinking.refusals import UsageError
from engine.thinking.sandbox import Limits, run_python
from engine.thinking.verifiers.judgement import CannotJudge, Judgement
from engine.thinking.verifiers.sureness import lowest

AT_ONCE = 2
"""Sandboxes side by side: the model decodes meanwhile, and wants the other cores."""
REPORT = 2000
"""Characters of a report, from its end."""
LIMITS = Limits()
DRIVER = Path(__file__).with_name("drive_tests.py").read_text("utf-8")


@dataclass(frozen=True)
class Tested:
    """How many tests passed of how many, 0 of 0 where it never came to them. `report`: what went wrong."""

    passed: int
    total: int
    report: str

    @property
    def share(self) -> float:
        return self.passed / self.total if self.total else 0.0

    @property
    def good(self) -> bool:
        return 0 < self.total == self.passed


def check(tests: str) -> None:
    """Raises UsageError for a file that no code could be tested with."""
    try:
        tree = ast.parse(tests)
    except (SyntaxError, ValueError) as error:
        where = f" in line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise UsageError(f"the tests are not Python: {error.args[0]}{where}", "correct the file") from None
    holds_some = any(
        isinstance(node, ast.Assert | ast.ClassDef)
        or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call))
        or (isinstance(node, ast.FunctionDef) and node.name.startswith("test"))
        for node in tree.body
    )
    if not holds_some:
        raise UsageError(
            "there are no tests in the file", "write functions named test_…, or assert at its top level"
        )


async def run_tests(reply: str, tests: str) -> Tested:
    """What a reply's code does under the tests. Raises CannotJudge where code cannot be run here."""
    code = code_in(reply)
    if not code:
        return Tested(0, 0, "There is no code in the answer.")
    mark = secrets.token_hex(8)
    ran = await run_python(DRIVER, stdin=json.dumps([code, tests, mark]), limits=LIMITS)
    if ran.status == "refused":
        raise CannotJudge(ran.stderr)
    result = ran.stdout.rpartition(mark)[2] if mark in ran.stdout else ""
    if ran.status == "ok" and result:
        passed, total, report = json.loads(result)
        return Tested(passed, total, report[-REPORT:])
    why = {
        "timeout": f"It did not end within {LIMITS.seconds:g} seconds.",
        "memory": "It ran out of memory.",
        "output": "It printed too much.",
    }.get(ran.status, "It ended before the tests did.")
    return Tested(0, 0, f"{ran.stderr}{why}"[-REPORT:])


async def by_tests(candidates: Sequence[Context], tests: str) -> Judgement:
    """Those that pass most tests; among them each by its confidence. The same code is run once."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def run(code: str) -> Tested:
        async with gate:
            return await run_tests(f"```\n{code}\n```", tests)

    codes = {one.candidate: code_in(one.answer) for one in candidates}
    distinct = list(dict.fromkeys(code for code in codes.values() if code))
    results = dict(zip(distinct, await asyncio.gather(*map(run, distinct)), strict=True))
    found = {name: results[code] for name, code in codes.items() if code}
    if not any(one.total for one in found.values()):
        raise CannotJudge("no code came to its tests")
    most = max(one.share for one in found.values())
    best = [one for one in candidates if one.candidate in found and found[one.candidate].share == most]
    example = found[best[0].candidate]
    return Judgement(
        {one.candidate: lowest(one) for one in best},
        f"tests: {len(best)} of {len(candidates)} pass {example.passed} of {example.total}",
    )
