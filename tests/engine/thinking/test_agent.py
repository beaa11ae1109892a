"""agent: what the calculator computes and refuses, how a thought is answered, and what its calls cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import scripted_checkpoint
from answer_run import Run

from engine.load.locate import locate
from engine.load.tokenizer import HubTokenizer
from engine.protocol import Message, ModelSpec
from engine.runtime.local import LocalBackend
from engine.setup import open_backend
from engine.thinking.formats import resolve
from engine.thinking.methods.agent import introduced, summed
from engine.thinking.tools import CannotCalculate, calculate, written

TINY = locate("tiny")
TOKENIZER = HubTokenizer(TINY)
THINK, END, EOS, NEWLINE = (TOKENIZER.encode(text)[0] for text in ("<think>", "</think>", "<|im_end|>", "\n"))
ONE, PLUS, TWO, EQUALS, THREE, FOUR = TOKENIZER.encode("1+2=34")
WRONG_SUMS = {THINK: ONE, ONE: PLUS, PLUS: TWO, TWO: EQUALS, EQUALS: FOUR, FOUR: NEWLINE, THREE: NEWLINE}
"""It writes 1+2=4, but goes on alike after a 3."""

Scripted = Callable[[Mapping[int, int]], LocalBackend]


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator[Scripted]:
    made: list[LocalBackend] = []

    def make(script: Mapping[int, int]) -> LocalBackend:
        folder = scripted_checkpoint.write(tmp_path / "model", TINY, script, TOKENIZER.size)
        made.append(open_backend(ModelSpec(model=str(folder))))
        return made[-1]

    yield make
    for backend in made:
        backend.close()


async def test_the_calculator_writes_the_results_of_sums_up_to_so_many(scripted: Scripted) -> None:
    done = await Run()(scripted({**WRONG_SUMS, NEWLINE: ONE}), think=40, method="agent:3")
    answer = done.answer
    assert answer.thinking.split("\n")[:5] == ["1+2=3", "1+2=3", "1+2=3", "1+2=4", "1+2=4"]
    calls = [node for node in answer.tree if node.kind == "call"]
    assert [node.text for node in calls] == ["3"] * 3
    assert "".join(node.text for node in answer.tree).strip() == answer.thinking
    parents = [node.parent for node in answer.tree]
    assert parents == ["", *(node.id for node in answer.tree)][:-1], "one thing follows the other"
    tokens = answer.receipt.tokens
    assert tokens.forwarded() == done.forwarded and tokens.thinking + tokens.forced <= 40
    assert tokens.forced >= 3
    assert [delta.text for delta in done.texts if delta.forced][:3] == ["3"] * 3


async def test_without_sums_it_thinks_as_without_tools(scripted: Scripted) -> None:
    backend = scripted({THINK: ONE, ONE: TWO, TWO: NEWLINE, NEWLINE: END, END: FOUR, FOUR: EOS})
    plain, with_tools = await Run()(backend, method="cot"), await Run()(backend, method="agent")
    assert with_tools.answer.thinking == plain.answer.thinking == "12"
    assert with_tools.answer.answer == plain.answer.answer == "4"
    assert with_tools.answer.receipt.tokens.thinking == plain.answer.receipt.tokens.thinking
    assert not with_tools.answer.tree


@pytest.mark.parametrize(
    ("thought", "result"),
    [
        ("12+7=", "19"),
        ("5*3=15\n15-4=", "11"),
        ("t=w+12=16+12=", "28"),
        ("Check: 2*(3+4)=", "14"),
        ("7-9=", None),
        ("7/2=", None),
        ("x=", None),
        ("2*3=6=", None),
        ("9" * 400 + "*9=", None),
    ],
)
def test_only_sums_of_whole_numbers_are_completed(thought: str, result: str | None) -> None:
    assert summed(thought) == result


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("12*7", "84"),
        ("1,234 x 5", "6170"),
        ("0.1+0.2", "0.3"),
        ("50% * 80", "40"),
        ("10 // 3 + 7 % 3", "4"),
        ("-(2^10)", "-1024"),
        ("2**-3", "0.125"),
        ("1/3", "1/3 ≈ 0.333333333333"),
        ("007 + 1_000", "1007"),
        ("17 × 3 =", "51"),
    ],
)
def test_arithmetic_is_exact(expression: str, value: str) -> None:
    assert written(calculate(expression)) == value


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("9**9**9", "too large"),
        ("1e999999999", "too large"),
        ("10**600*10**600", "too large"),
        ("2**0.5", "root"),
        ("1/0", "division by zero"),
        ("5 % 0", "division by zero"),
        ("", "nothing"),
        ("(" * 200 + "1" + ")" * 200, "longer"),
        ("__import__('os').system('true')", "not arithmetic"),
        ("(lambda: 1)()", "not arithmetic"),
        ("True + 1", "not arithmetic"),
        ("1j*1j", "not arithmetic"),
        ("'a'*9", "not arithmetic"),
        ("3 4", "not arithmetic"),
    ],
)
def test_what_is_no_arithmetic_or_grows_without_end_is_refused(expression: str, why: str) -> None:
    with pytest.raises(CannotCalculate, match=why):
        calculate(expression)


def test_a_model_is_told_of_its_tools_and_of_python_only_where_that_is_allowed() -> None:
    tokenizer = HubTokenizer(TINY)
    bundled = resolve(tokenizer, "mull-tiny")
    other = resolve(tokenizer, "qwen3")
    asked = (Message("system", "Be brief."), Message("user", "How many?"))
    assert introduced(asked, bundled, 4, python=True) == asked
    system, user = introduced(asked, other, 4, python=False)
    assert system.content.startswith("Be brief.")
    assert "CALC:" in system.content and "4 times" in system.content
    assert "PYTHON" not in system.content and user == asked[1]
    [system, _] = introduced(asked[1:], other, 4, python=True)
    assert system.role == "system" and "PYTHON:" in system.content
