"""Answers on a real backend over scripted text: whatever a model does with its markers, the budget holds."""

from collections.abc import Mapping
from importlib.resources import as_file, files
from itertools import pairwise
from pathlib import Path

import pytest
import scripted_checkpoint
from answer_run import Run

from engine.load.tokenizer import HubTokenizer
from engine.protocol import (
    AnswerNow,
    Cancel,
    ModelSpec,
    More,
    Notice,
)
from engine.runtime.local import LocalBackend
from engine.setup import open_backend
from engine.thinking.run import UsageError

with as_file(files("assets") / "tiny") as folder:
    TINY = Path(folder)
TOKENIZER = HubTokenizer(TINY)
NEWLINE, THINK, END, EOS = (TOKENIZER.encode(text)[0] for text in ("\n", "<think>", "</think>", "<|im_end|>"))
A, B, C, D, E = TOKENIZER.encode("12345")
FORCED = TOKENIZER.encode("\n</think>\n\n")


def backend_of(tmp_path: Path, script: Mapping[int, int], **config: object) -> LocalBackend:
    folder = scripted_checkpoint.write(tmp_path / "model", TINY, script, TOKENIZER.size, **config)
    return open_backend(ModelSpec(model=str(folder)))


@pytest.fixture
def run() -> Run:
    return Run()


async def test_a_thought_that_ends_by_itself_is_not_cut(tmp_path: Path, run: Run) -> None:
    # <think> 1 2 3 </think> 4 5 <end>
    done = await run(backend_of(tmp_path, {THINK: A, A: B, B: C, C: END, END: D, D: E, E: EOS}))
    assert (done.answer.thinking, done.answer.answer, done.answer.finish) == ("123", "45", "stop")
    tokens = done.answer.receipt.tokens
    assert (tokens.thinking, tokens.answer, tokens.forced) == (4, 2, 1)


async def test_the_account_of_an_answer_is_what_the_runner_counted(tmp_path: Path, run: Run) -> None:
    done = await run(backend_of(tmp_path, {THINK: A, A: B, B: C, C: END, END: D, D: E, E: EOS}))
    tokens = done.answer.receipt.tokens
    assert tokens.forwarded() == done.forwarded == tokens.prompt + 4 + 2 + 1


async def test_a_thought_without_end_is_ended_inside_its_budget_and_answered(
    tmp_path: Path, run: Run
) -> None:
    script = {THINK: A, A: A, FORCED[-1]: D, D: E, E: EOS}
    done = await run(backend_of(tmp_path, script), think=20)
    tokens = done.answer.receipt.tokens
    assert done.answer.answer == "45" and done.answer.finish == "budget"
    assert tokens.thinking + tokens.forced == 20
    assert done.answer.thinking == "1" * (20 - 1 - len(FORCED))
    assert tokens.forwarded() == done.forwarded


async def test_an_end_of_text_inside_a_thought_ends_only_the_thought(tmp_path: Path, run: Run) -> None:
    done = await run(backend_of(tmp_path, {THINK: A, A: EOS, FORCED[-1]: D, D: EOS}))
    assert (done.answer.thinking, done.answer.answer, done.answer.finish) == ("1", "4", "stop")


async def test_a_thought_reopened_in_the_answer_spends_the_same_budget(tmp_path: Path, run: Run) -> None:
    # the answer opens a thought again and again: <think> 1 2 </think> 3 <think> 1 2 </think> 3 …
    script = {THINK: A, A: B, B: END, END: C, C: THINK, FORCED[-1]: C}
    done = await run(backend_of(tmp_path, script), think=30, max_tokens=60)
    tokens = done.answer.receipt.tokens
    assert tokens.thinking + tokens.forced <= 30
    assert done.answer.answer.startswith("333") and "<think>" not in done.answer.answer
    assert tokens.forwarded() == done.forwarded


async def test_thoughts_that_end_the_text_again_and_again_spend_one_budget(tmp_path: Path, run: Run) -> None:
    # each thought is one token and the end of the text; each answer begins with another thought
    script = {THINK: A, A: EOS, FORCED[-1]: THINK}
    done = await run(backend_of(tmp_path, script), think=32, max_tokens=40)
    tokens = done.answer.receipt.tokens
    assert tokens.thinking + tokens.forced <= 32
    assert done.answer.answer
    assert tokens.forwarded() == done.forwarded


async def test_a_thought_opened_where_the_context_ends_leaves_an_answer(tmp_path: Path, run: Run) -> None:
    # a thought of 45 tokens, an answer of 20, and another thought for which the context has no room
    thought, said = range(300, 345), range(400, 420)
    script = {THINK: thought[0], **dict(pairwise(thought)), thought[-1]: END}
    script |= {END: said[0], **dict(pairwise(said)), said[-1]: THINK, FORCED[-1]: A, A: EOS}
    done = await run(backend_of(tmp_path, script, max_position_embeddings=128))
    tokens = done.answer.receipt.tokens
    assert done.answer.answer.endswith("1") and done.answer.finish == "budget"
    assert 46 < tokens.thinking < 92 and tokens.forced == 1 + len(FORCED)
    assert tokens.forwarded() == done.forwarded


async def test_a_thought_does_not_open_another_inside_itself(tmp_path: Path, run: Run) -> None:
    done = await run(backend_of(tmp_path, {THINK: A, A: THINK}), think=40, max_tokens=5)
    assert done.answer.thinking.startswith("1") and "<think>" not in done.answer.thinking


async def test_thinking_off_never_opens_a_thought(tmp_path: Path, run: Run) -> None:
    done = await run(
        backend_of(tmp_path, {FORCED[-1]: A, A: THINK, THINK: B, B: EOS}), think="off", max_tokens=8
    )
    assert done.answer.thinking == "" and done.answer.receipt.tokens.thinking == 0
    assert "<think>" not in done.answer.answer


async def test_an_answer_is_never_empty(tmp_path: Path, run: Run) -> None:
    done = await run(backend_of(tmp_path, {THINK: A, A: END, END: EOS, FORCED[-1]: EOS}))
    assert done.answer.answer.strip()


async def test_the_cap_on_the_visible_answer_holds(tmp_path: Path, run: Run) -> None:
    done = await run(backend_of(tmp_path, {THINK: A, A: END, END: B, B: B}), max_tokens=7)
    assert done.answer.answer == "2" * 7 and done.answer.finish == "length"
    tokens = done.answer.receipt.tokens
    assert (tokens.answer, tokens.pending) == (7, 1)
    assert tokens.forwarded() == done.forwarded


async def test_a_blank_beginning_does_not_count_as_visible_answer(tmp_path: Path, run: Run) -> None:
    done = await run(backend_of(tmp_path, {THINK: A, A: END, END: NEWLINE, NEWLINE: B, B: B}), max_tokens=1)
    assert done.answer.answer == "2" and done.answer.finish == "length"


async def test_an_answer_does_not_close_a_thought_that_is_not_open(tmp_path: Path, run: Run) -> None:
    done = await run(backend_of(tmp_path, {THINK: A, A: END, END: B, B: END}), max_tokens=6)
    assert done.answer.answer.startswith("2") and "</think>" not in done.answer.answer


async def test_answer_now_ends_the_thought_and_answers(tmp_path: Path, run: Run) -> None:
    run.controls = {1: AnswerNow()}
    done = await run(backend_of(tmp_path, {THINK: A, A: A, FORCED[-1]: D, D: EOS}))
    assert done.answer.answer == "4" and done.answer.finish == "budget"
    assert 0 < done.answer.receipt.tokens.thinking < 1000


async def test_more_raises_the_running_budget_and_less_ends_it(tmp_path: Path, run: Run) -> None:
    backend = backend_of(tmp_path, {THINK: A, A: A, FORCED[-1]: D, D: EOS})
    run.controls = {1: More(15)}
    raised = await run(backend, think=20)
    tokens = raised.answer.receipt.tokens
    assert tokens.thinking + tokens.forced == 35
    lowered = Run()
    lowered.controls = {1: More(-1000)}
    await lowered(backend, think=1000)
    assert lowered.answer.receipt.tokens.thinking < 900 and lowered.answer.answer == "4"


async def test_a_cancelled_answer_keeps_what_was_said(tmp_path: Path, run: Run) -> None:
    backend = backend_of(tmp_path, {THINK: A, A: END, END: B, B: B})
    run.controls = {3: Cancel()}
    done = await run(backend)
    assert done.answer.finish == "cancelled" and done.answer.answer.startswith("22")
    assert done.answer.answer == done.text("answer")
    assert backend.memory().kv_used == 0


async def test_what_streams_is_what_the_answer_says(tmp_path: Path, run: Run) -> None:
    done = await run(backend_of(tmp_path, {THINK: A, A: A, FORCED[-1]: D, D: E, E: EOS}), think=25)
    assert done.text("thinking").strip() == done.answer.thinking
    assert done.text("answer").strip() == done.answer.answer


async def test_a_budget_too_small_to_think_in_answers_directly_and_says_so(tmp_path: Path, run: Run) -> None:
    done = await run(backend_of(tmp_path, {FORCED[-1]: D, D: EOS}), think=3)
    assert done.answer.method == "direct" and done.answer.answer == "4"
    assert [event.text for event in done.events if isinstance(event, Notice)] == list(
        done.answer.receipt.state.notices
    )
    assert "thinking is off" in done.answer.receipt.state.notices[0]
    off = await Run()(backend_of(tmp_path, {FORCED[-1]: D, D: EOS}), think="off")
    assert done.answer.receipt.tokens == off.answer.receipt.tokens, "the prompt is the one without thinking"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "cots"}, "did you mean 'cot'"),
        ({"method": "cot", "think": "off"}, "thinking is off"),
        ({"method": "direct", "think": 100}, "does not think"),
        ({"think": -1}, "negative"),
        ({"max_tokens": 0}, "would be empty"),
    ],
)
async def test_a_request_that_contradicts_itself_is_refused(
    tmp_path: Path, run: Run, options: dict[str, object], message: str
) -> None:
    backend = backend_of(tmp_path, {})
    with pytest.raises(UsageError, match=message):
        await run(backend, **options)  # type: ignore[arg-type]
    assert backend.memory().kv_used == 0


async def test_an_answer_that_memory_cut_says_so(tmp_path: Path, run: Run) -> None:
    backend = backend_of(tmp_path, {})
    pool, others = backend.runner.pool, list[int]()
    pool.grow(others, pool.pages - 1)
    await run(backend, think="off")
    assert run.answer.finish == "length"
    assert run.answer.receipt.state.degradations[-1] == "out of memory: the answer ends here"
    pool.release(others)
    backend.close()
