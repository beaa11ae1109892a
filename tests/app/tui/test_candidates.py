"""Several answers of which one is kept: how they stand while they come; none is shown before it is chosen."""

from __future__ import annotations

import msgspec
from chat_driver import answers, ask, said, settle, text_of
from textual.widgets import Static

from app.tui.widgets.receipt_line import ReceiptLine
from engine.protocol import Candidate, Decision, Delta, Finished, Vote, Voted

VOTES = (
    Vote(answer="7422", candidates=("1", "2"), weight=2),
    Vote(answer="7", candidates=("0",), weight=1),
)


def finished(kit) -> Finished:
    answer = kit.answer("7422")
    step = answer.receipt.steps[0]
    steps = tuple(msgspec.structs.replace(step, candidate=str(number), seconds=2.5) for number in range(3))
    tokens = msgspec.structs.replace(answer.receipt.tokens, discarded=84)
    return Finished(
        answer=msgspec.structs.replace(
            answer,
            method="vote:8",
            candidates=tuple(
                Candidate(id=str(number), answer=text, tokens=4, kept=number == 1)
                for number, text in enumerate(("7", "7422", "7422"))
            ),
            decision=Decision(rule="majority, clear after 3 of 8", votes=VOTES, margin=1 / 3),
            receipt=msgspec.structs.replace(answer.receipt, steps=steps, tokens=tokens),
        )
    )


async def test_only_the_answer_that_is_kept_is_shown_and_how_it_was_chosen(kit) -> None:
    def delta(candidate: int, phase: str, text: str) -> Delta:
        return Delta(candidate=str(candidate), phase=phase, text=text, tokens=3)  # type: ignore[arg-type]

    app = kit.app(
        [
            kit.started(candidates=8),
            delta(0, "thinking", "first thoughts"),
            delta(1, "thinking", "second thoughts"),
            delta(0, "answer", "7"),
            kit.hold,
            Voted(votes=VOTES, ended=3, wanted=8),
            kit.hold,
            finished(kit),
        ]
    )
    async with app.run_test(size=(100, 30)) as pilot:
        await ask(pilot)
        head = answers(app)[0].thinking.query_one("#head", Static)
        assert "one of up to 8 answers" in text_of(head)
        lanes = text_of(answers(app)[0].thinking.query_one("#thoughts", Static)).splitlines()
        assert lanes == ["0 · 3 tok  → 7", "1 · 3 tok  second thoughts"]
        assert said(answers(app)[0]) == ""
        kit.engine.release()
        await pilot.pause(0.1)
        assert "3 of 8 answers, 2 of them 7422" in text_of(head)
        kit.engine.release()
        await settle(pilot)
        assert said(answers(app)[0]) == "7422"
        line = answers(app)[0].query_one(ReceiptLine).text
        assert "vote:8: 2 of 3 (majority, clear after 3 of 8)" in line and "84 not kept" in line
        assert "2.5s" in text_of(head), "the time of the thought that is shown, not of all"
        await pilot.press("ctrl+o")
        table = text_of(answers(app)[0].thinking.query_one("#thoughts", Static))
        assert "67 %  2 of 3  7422" in table and "33 %  1 of 3  7" in table
