"""Conversations that outgrow a small context, on the real backend: what is left out, told and cached."""

import time
from collections.abc import Mapping, Sequence
from importlib.resources import as_file, files
from pathlib import Path

import pytest
import scripted_checkpoint

from engine.backend import Account, Lease, Node
from engine.load.tokenizer import HubTokenizer
from engine.meter.receipt import Clock
from engine.protocol import (
    Answer,
    AnswerRequest,
    Cancel,
    Event,
    Message,
    ModelSpec,
    Notice,
    Overflow,
    Started,
    Summary,
    Think,
)
from engine.runtime.local import LocalBackend
from engine.setup import open_backend
from engine.thinking.run import Steering, UsageError, answer

with as_file(files("assets") / "tiny") as folder:
    TINY = Path(folder)
TOKENIZER = HubTokenizer(TINY)
EOS = TOKENIZER.encode("<|im_end|>")[0]
ANSWERING = TOKENIZER.encode("\n</think>\n\n")[-1]
"""The last token of a prompt without thoughts."""
ONE, TWO, THREE = TOKENIZER.encode("123")
SAYS_12 = {ANSWERING: ONE, ONE: TWO, TWO: EOS}
"""A model that says 12, whatever it is asked."""
CONTEXT = 256


@pytest.fixture
def backend(tmp_path: Path) -> LocalBackend:
    return backend_of(tmp_path, SAYS_12)


def backend_of(tmp_path: Path, script: Mapping[int, int], context: int = CONTEXT) -> LocalBackend:
    folder = scripted_checkpoint.write(tmp_path / "model", TINY, script, TOKENIZER.size)
    return open_backend(ModelSpec(model=str(folder), context=context))


class Talk:
    """A conversation that goes on turn by turn, with all that the model was sent and all that was heard."""

    def __init__(self, backend: LocalBackend, overflow: Overflow = "drop", system: str = "") -> None:
        self.backend = backend
        self.overflow = overflow
        self.messages: list[Message] = [Message("system", system)] if system else []
        self.summary: Summary | None = None
        self.steering = Steering()
        self.events: list[Event] = []
        self.prompts: list[str] = []
        self.accounts: list[Account] = []
        self.forwarded = 0
        self._prefill = backend.prefill
        backend.prefill = self._listen  # type: ignore[method-assign]

    async def _listen(self, ids: Sequence[int], lease: Lease, *rest: object) -> Node:
        self.prompts.append(TOKENIZER.decode(ids))
        node = await self._prefill(ids, lease, *rest)  # type: ignore[arg-type]
        self.accounts.append(node.account)
        return node

    def add(self, question: str, answer: str) -> None:
        """An exchange that took place before."""
        for role, text in (("user", question), ("assistant", answer)):
            self.messages.append(Message(role, text, id=f"t{len(self.messages) + 1}"))  # type: ignore[arg-type]

    async def ask(self, question: str, think: Think = "off", named: bool = True) -> Answer:
        """The next answer."""
        self.messages.append(Message("user", question, id=f"t{len(self.messages) + 1}" if named else ""))
        request = AnswerRequest(
            id="a",
            spec=ModelSpec(),
            messages=tuple(self.messages),
            think=think,
            overflow=self.overflow,
            summary=self.summary,
        )
        self.prompts, self.accounts, self.events = [], [], []
        now, before = time.monotonic_ns(), self.backend.runner.forwarded_tokens
        done = await answer(request, self.backend, self.events.append, self.steering, Clock(now, now, 0.0))
        self.forwarded = self.backend.runner.forwarded_tokens - before
        self.summary = done.summary or self.summary
        name = f"t{len(self.messages) + 1}" if named else ""
        self.messages.append(Message("assistant", done.answer, id=name))
        return done

    async def fill(self) -> Answer:
        """The first answer for which something is left out."""
        for number in range(40):
            done = await self.ask(f"What is {number} and {number + 1} and {number + 2}?")
            if done.receipt.state.turns_left_out:
                return done
        raise AssertionError("nothing was ever left out")

    @property
    def notices(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Notice)]

    @property
    def started(self) -> Started:
        (started,) = (event for event in self.events if isinstance(event, Started))
        return started


def names(count: int, first: int = 1) -> tuple[str, ...]:
    return tuple(f"t{number}" for number in range(first, first + count))


# Dropping


async def test_the_oldest_exchanges_are_left_out_and_named_and_all_else_is_sent(
    backend: LocalBackend,
) -> None:
    talk = Talk(backend, system="Be brief.")
    done = await talk.fill()
    left_out = done.receipt.state.turns_left_out
    assert left_out == names(len(left_out), first=2) and len(left_out) % 2 == 0
    assert talk.started.turns_left_out == left_out
    kept = [message for message in talk.messages[:-1] if message.id not in left_out]
    (prompt,) = talk.prompts
    at = 0
    for message in kept:
        at = prompt.index(f"<|im_start|>{message.role}\n{message.content}<|im_end|>", at)
    assert prompt.count("<|im_start|>") == len(kept) + 1
    assert kept[0].role == "system" and kept[-1] == talk.messages[-2]


async def test_after_a_drop_the_turns_go_on_from_the_same_beginning_and_the_cache_grows(
    backend: LocalBackend,
) -> None:
    talk = Talk(backend)
    last = await talk.fill()
    for rounds in range(1, 4):
        dropped_at = last.receipt
        assert dropped_at.tokens.prompt <= CONTEXT // 2 + 4
        turns = 0
        while (done := await talk.ask("And what is 7 and 8?")).receipt.state.turns_left_out == (
            dropped_at.state.turns_left_out
        ):
            turns += 1
            tokens = done.receipt.tokens
            assert tokens.cached >= last.receipt.tokens.prompt - 6, "all but the end of the template"
            assert tokens.cached > last.receipt.tokens.cached
            assert tokens.prompt <= CONTEXT * 7 // 8
            last = done
        assert turns >= 3, f"cut number {rounds} was not enough"
        assert len(done.receipt.state.turns_left_out) > len(dropped_at.state.turns_left_out)
        last = done


async def test_what_is_left_out_follows_from_the_conversation_alone(backend: LocalBackend) -> None:
    talk = Talk(backend)
    await talk.fill()
    step_by_step = (await talk.ask("And now?")).receipt.state.turns_left_out
    for think, messages in (("off", talk.messages[:-2]), ("max", talk.messages[:-2])):
        anew = Talk(backend)
        anew.messages = list(messages)
        assert (await anew.ask("And now?", think=think)).receipt.state.turns_left_out == step_by_step


async def test_a_conversation_that_fits_is_sent_whole_whatever_was_chosen(backend: LocalBackend) -> None:
    talk = Talk(backend, "summarize")
    talk.summary = Summary(text="nothing", turns=("t1", "t2"))
    for _ in range(3):
        done = await talk.ask("How many?")
        assert done.receipt.state.turns_left_out == () and done.summary is None and not talk.notices
    assert len(talk.prompts) == 1 and "nothing" not in talk.prompts[0]


async def test_turns_without_a_name_are_named_by_their_place(backend: LocalBackend) -> None:
    talk = Talk(backend, system="Be brief.")
    for _ in range(40):
        done = await talk.ask("What is 1 and 2 and 3?", named=False)
        if done.receipt.state.turns_left_out:
            break
    assert done.receipt.state.turns_left_out[:3] == ("message 2", "message 3", "message 4")


# Stopping


async def test_without_a_choice_there_is_no_answer_and_the_ways_out_are_named(backend: LocalBackend) -> None:
    talk = Talk(backend, "stop")
    with pytest.raises(UsageError, match="leaves too little of the context's 256") as caught:
        await talk.fill()
    assert caught.value.code == "overflow"
    assert "--overflow drop|summarize" in caught.value.hint and "begin a new one" in caught.value.hint
    assert "larger --context, up to 2048" in caught.value.hint
    assert backend.memory().kv_used == 0


@pytest.mark.parametrize("overflow", ["stop", "drop", "summarize"])
@pytest.mark.parametrize("length", [300, 20_000])
async def test_a_question_too_long_by_itself_is_refused_for_nothing_left_out_would_help(
    backend: LocalBackend, overflow: Overflow, length: int
) -> None:
    talk = Talk(backend, overflow)
    await talk.ask("How many?")
    with pytest.raises(UsageError, match="the question alone takes") as caught:
        await talk.ask("1 " * length)
    assert caught.value.code == "fit" and caught.value.hint.startswith("shorten it")


# Summarizing


async def test_a_summary_stands_in_the_system_message_for_what_is_left_out(tmp_path: Path) -> None:
    talk = Talk(backend_of(tmp_path, SAYS_12, context=512), "summarize", system="Be brief.")
    done = await talk.fill()
    left_out = done.receipt.state.turns_left_out
    assert done.summary == Summary(text="12", turns=left_out) == talk.started.summary
    asked, sent = talk.prompts
    assert sent.startswith(
        "<|im_start|>system\nBe brief.\n\nSummary of the earlier conversation: 12<|im_end|>"
    )
    assert "Summarize our conversation" in asked and "Summarize our conversation" not in sent
    told = [event for event in talk.events if isinstance(event, Notice | Started)]
    assert isinstance(told[0], Notice), "said before the time that it takes"
    assert f"summarizing the {len(left_out)} oldest turns" in told[0].text


async def test_the_summary_is_part_of_what_the_answer_cost(backend: LocalBackend) -> None:
    talk = Talk(backend, "summarize")
    receipt = (await talk.fill()).receipt
    tokens = receipt.tokens
    assert tokens.summary > 2 and tokens.answer == 2
    assert tokens.prefilled + tokens.cached == tokens.prompt
    assert tokens.forwarded() == talk.forwarded == sum(step.tokens for step in receipt.steps)
    assert receipt.compute.flops.total.value == sum(step.flops for step in receipt.steps)
    first = receipt.time.first_token.value
    assert first is not None and first >= sum(step.seconds for step in receipt.steps[:-1])


async def test_the_turns_to_summarize_are_read_from_the_cache(tmp_path: Path) -> None:
    talk = Talk(backend_of(tmp_path, SAYS_12, context=512), "summarize")
    done = await talk.fill()
    request = TOKENIZER.encode(talk.prompts[0][talk.prompts[0].index("Summarize") :])
    assert done.receipt.tokens.summary < len(request) + 16 < len(TOKENIZER.encode(talk.prompts[0])) / 2


async def test_a_summary_is_used_again_until_the_context_is_full_again(backend: LocalBackend) -> None:
    talk = Talk(backend, "summarize")
    last = await talk.fill()
    turns = 0
    while not talk.notices or not turns:
        done = await talk.ask("And what is 7 and 8?")
        if talk.notices:
            break
        turns += 1
        assert done.summary == last.summary and done.receipt.tokens.summary == 0
        assert done.receipt.tokens.cached > last.receipt.tokens.cached
        last = done
    assert turns >= 2
    assert last.summary is not None and done.summary is not None
    assert set(done.summary.turns) > set(last.summary.turns)
    assert "Summary of the earlier conversation: 12" in talk.prompts[0], "the new one continues the old one"


async def test_a_summary_of_another_conversation_is_not_used(backend: LocalBackend) -> None:
    talk = Talk(backend, "summarize")
    talk.summary = Summary(text="nonsense", turns=("t7", "t8"))
    await talk.fill()
    assert not any("nonsense" in prompt for prompt in talk.prompts)


async def test_a_conversation_too_long_to_be_summarized_at_once_is_summarized_in_parts(
    backend: LocalBackend,
) -> None:
    talk = Talk(backend, "summarize")
    for number in range(30):
        talk.add(f"What is {number} and {number}?", f"It is {2 * number}.")
    done = await talk.ask("And now?")
    *parts, sent = talk.prompts
    assert len(parts) > 2 and all(len(TOKENIZER.encode(part)) < CONTEXT for part in parts)
    assert all("conversation: 12" in prompt for prompt in (*parts[1:], sent))
    left_out = done.receipt.state.turns_left_out
    for message in talk.messages[: len(left_out)]:
        assert sum(f"\n{message.content}<|im_end|>" in part for part in parts) == 1
    assert done.receipt.tokens.forwarded() == talk.forwarded


async def test_an_exchange_too_long_to_be_summarized_is_read_without_its_middle(
    backend: LocalBackend,
) -> None:
    talk = Talk(backend, "summarize")
    talk.add("first words " + "1 " * 400 + "last words", "Yes.")
    done = await talk.ask("And now?")
    assert "first words" in talk.prompts[0] and "last words" in talk.prompts[0] and "[…]" in talk.prompts[0]
    assert len(TOKENIZER.encode(talk.prompts[0])) <= CONTEXT - CONTEXT // 8, "the summary has its room"
    assert "only the ends of t1 and t2 were summarized" in talk.notices
    assert done.receipt.state.notices == tuple(talk.notices[1:])
    assert done.summary == Summary(text="12", turns=("t1", "t2"))


async def test_a_template_without_a_system_message_has_the_summary_before_the_first_question(
    backend: LocalBackend,
) -> None:
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    backend.tokenizer.chat_template = refusing + TOKENIZER.chat_template
    talk = Talk(backend, "summarize")
    done = await talk.fill()
    assert done.summary is not None
    assert talk.prompts[-1].startswith("<|im_start|>user\nSummary of the earlier conversation: 12\n\nWhat is")


async def test_a_model_that_writes_no_summary_is_told_of_and_the_turns_are_left_out(tmp_path: Path) -> None:
    talk = Talk(backend_of(tmp_path, {ANSWERING: EOS}), "summarize")
    done = await talk.fill()
    assert done.summary is None and done.receipt.state.turns_left_out
    assert "the model wrote no summary: the turns are left out without one" in talk.notices
    assert "Summary" not in talk.prompts[-1]


async def test_a_context_too_small_to_summarize_in_leaves_the_turns_out_and_says_so(tmp_path: Path) -> None:
    talk = Talk(backend_of(tmp_path, SAYS_12, context=64), "summarize")
    done = await talk.fill()
    assert done.summary is None and done.receipt.state.turns_left_out
    assert any("too small to summarize in" in notice for notice in talk.notices)


async def test_without_memory_for_a_summary_the_turns_are_left_out_and_that_is_said(
    backend: LocalBackend,
) -> None:
    talk = Talk(backend, "summarize")
    prefill = backend.prefill

    async def short_of_memory(ids: Sequence[int], *rest: object) -> Node:
        if "Summarize our conversation" in TOKENIZER.decode(ids):
            raise MemoryError
        return await prefill(ids, *rest)  # type: ignore[arg-type]

    backend.prefill = short_of_memory  # type: ignore[method-assign,assignment]
    done = await talk.fill()
    assert done.answer == "12" and done.summary is None and done.receipt.state.turns_left_out
    assert any("no memory to summarize in" in notice for notice in talk.notices)


async def test_a_summary_without_end_is_cut_where_it_may_be_no_longer(tmp_path: Path) -> None:
    talk = Talk(backend_of(tmp_path, {ANSWERING: ONE, ONE: ONE, TWO: EOS}), "summarize")
    for number in range(12):
        talk.add(f"What is {number} and {number}?", f"It is {2 * number}.")
    done = await talk.ask("And now?")
    assert done.summary is not None and done.summary.text == "1" * (CONTEXT // 8)


async def test_a_question_that_leaves_no_room_for_the_summary_is_answered_without_it(
    backend: LocalBackend,
) -> None:
    talk = Talk(backend, "summarize")
    talk.add("What is 1 and 2?", "It is 3.")
    around = len(TOKENIZER.render([Message("user", "")], enable_thinking=False))
    one = len(TOKENIZER.encode("1 " * 20)) // 20
    done = await talk.ask("1 " * ((CONTEXT - around - 4) // one))
    assert done.receipt.state.turns_left_out == ("t1", "t2") and done.summary is None
    assert "the question leaves no room for the summary: it is left out too" in talk.notices


async def test_an_answer_cancelled_while_its_turns_are_summarized_ends_there(tmp_path: Path) -> None:
    backend = backend_of(tmp_path, {ANSWERING: ONE, ONE: TWO, TWO: ONE}, context=512)
    talk = Talk(backend, "summarize")
    for number in range(16):
        talk.add(f"What is {number} and {number}?", f"It is {2 * number}.")
    extend = backend.extend

    async def stop(*arguments: object, **options: object) -> object:
        talk.steering.control(Cancel())
        return await extend(*arguments, **options)  # type: ignore[arg-type]

    backend.extend = stop  # type: ignore[method-assign,assignment]
    done = await talk.ask("And now?")
    assert len(talk.prompts) == 2, "one to summarize and one to answer"
    assert done.finish == "cancelled" and done.answer == "" and done.summary is None
    assert sum(len(account.sampled_ns) for account in talk.accounts) <= 1
    assert done.receipt.tokens.forwarded() == talk.forwarded
    assert done.receipt.tokens.summary > 0 and backend.memory().kv_used == 0
