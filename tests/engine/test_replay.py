"""A recorded answer comes out the same, token by token, and otherwise where anything of it was changed."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from answer_run import Run
from msgspec.structs import replace
from safetensors.torch import load_file, save_file

from engine.load.locate import locate
from engine.protocol import Answer, Message, ModelSpec, Sampling
from engine.protocol.replay import ReplayReport, ReplayRequest
from engine.protocol.trace import Passage, Raised, Trace, packed, unpacked
from engine.replay.job import replay
from engine.runtime.local import LocalBackend
from engine.setup import open_backend
from engine.speed import Stop

HARD = "s = 1, u = 18, p = 13, g = p + 7, e = g + 7, c = e - 11, y = c + 2, h = y - 14. Find h."
"""Of which the bundled model is not sure."""
WARM = Sampling(temperature=1.2, top_p=0.95, top_k=40, seed=5)


@pytest.fixture(scope="module")
def tiny() -> Iterator[LocalBackend]:
    backend = open_backend(ModelSpec(model="tiny"))
    yield backend
    backend.close()


async def answered(backend: LocalBackend, **options: object) -> Answer:
    return (await Run(HARD)(backend, trace=True, **options)).answer  # type: ignore[arg-type]


def trace_of(answer: Answer) -> Trace:
    assert answer.trace is not None
    return answer.trace


async def replayed(
    answer: Answer, backend: LocalBackend, messages: tuple[Message, ...] | None = None
) -> ReplayReport:
    asked = trace_of(answer).messages if messages is None else messages
    request = ReplayRequest(id="r", spec=ModelSpec(), answer=answer, messages=asked)
    return await replay(request, backend, lambda _: None, Stop())


def choices(answer: Answer) -> int:
    """How many tokens were sampled, by the trace."""
    passages = [one for path in trace_of(answer).paths for one in path.passages if one.sampling]
    return sum(len(unpacked(one.ids)) + (one.dropped is not None) for one in passages)


def agrees(report: ReplayReport, answer: Answer) -> bool:
    """Whether each choice came out the same, and nothing else is different."""
    assert not report.differences, report.differences
    assert sum(path.choices for path in report.paths) == choices(answer) > 0
    return all(path.agreed == path.choices for path in report.paths)


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"kv": "int8"},
        {"quant": "int8"},
        {"draft": "exit:2"},
    ],
    ids=str,
)
async def test_all_tokens_come_out_the_same(spec: dict[str, str]) -> None:
    backend = open_backend(ModelSpec(model="tiny", **spec))  # type: ignore[arg-type]
    try:
        greedy = await answered(backend)
        sampled, direct, cut, vote, refined = await asyncio.gather(  # computed beside each other
            answered(backend, sampling=WARM),
            answered(backend, think="off", sampling=WARM),
            answered(backend, think=16, sampling=WARM),
            answered(backend, method="vote:6", sampling=WARM),
            answered(backend, method="refine:3", sampling=WARM),
        )
        assert [len(trace_of(one).paths) for one in (greedy, cut)] == [1, 1]
        assert len(trace_of(vote).paths) == len(vote.candidates) + 1, "the prompt is there once"
        for answer in (greedy, sampled, direct, cut, vote, refined):
            assert agrees(await replayed(answer, backend), answer)
    finally:
        backend.close()


async def test_a_thought_that_is_wound_down_is_chosen_again_with_what_its_end_was_raised_by(
    tiny: LocalBackend,
) -> None:
    answers = [await answered(tiny, think=think, sampling=WARM) for think in range(20, 44, 4)]
    raised = [one for one in answers if any(p.raised for p in trace_of(one).paths[0].passages)]
    assert raised, "no line ended where the end is made likelier"
    for answer in raised:
        assert agrees(await replayed(answer, tiny), answer)
    thought = trace_of(raised[0]).paths[0].passages
    index = next(at for at, one in enumerate(thought) if one.raised)
    first = thought[index].raised[0]
    pushed = replace(thought[index], raised=(Raised(first.position, first.id, 1e4),))
    report = await replayed(changed(raised[0], index, pushed), tiny)
    assert [one.what for one in report.differences] == ["choices"]
    assert report.paths[0].first is not None and report.paths[0].first.position == first.position


async def test_a_prompt_is_rendered_anew_from_the_messages(tiny: LocalBackend) -> None:
    answer = await answered(tiny)
    [message] = trace_of(answer).messages
    report = await replayed(answer, tiny, (replace(message, content=message.content + " "),))
    assert [one.what for one in report.differences] == ["prompt"]
    assert "token" in report.differences[0].text
    assert [one.what for one in (await replayed(answer, tiny, ())).differences] == ["prompt"]


def changed(answer: Answer, index: int, passage: Passage) -> Answer:
    """With another passage in the place of one of the first path's."""
    trace = trace_of(answer)
    path = trace.paths[0]
    passages = (*path.passages[:index], passage, *path.passages[index + 1 :])
    paths = (replace(path, passages=passages), *trace.paths[1:])
    return replace(answer, trace=replace(trace, paths=paths))


async def test_any_id_that_was_changed_is_found(tiny: LocalBackend) -> None:
    answer = await answered(tiny)
    [path] = trace_of(answer).paths
    other = tiny.tokenizer.encode("7")[0]
    index, passage = next((at, one) for at, one in enumerate(path.passages) if one.sampling)
    ids = unpacked(passage.ids)
    for at in (0, len(ids) // 2, len(ids) - 1):
        token = other if ids[at] != other else other + 1
        mutated = replace(passage, ids=packed([*ids[:at], token, *ids[at + 1 :]]))
        report = await replayed(changed(answer, index, mutated), tiny)
        found = report.paths[0].first
        assert "choices" in [one.what for one in report.differences]
        assert found is not None and found.verdict == "different" and found.recorded == token
        assert (
            found.position
            == len(unpacked(path.prompt)) + sum(len(unpacked(one.ids)) for one in path.passages[:index]) + at
        )
    prompt = unpacked(path.prompt)
    longer = replace(trace_of(answer), paths=(replace(path, prompt=packed([*prompt[:-1], other])),))
    assert "prompt" in [one.what for one in (await replayed(replace(answer, trace=longer), tiny)).differences]


async def test_another_seed_is_found_wherever_it_is_written(tiny: LocalBackend) -> None:
    answer = await answered(
        tiny, method="vote:6", think=24, max_tokens=24, sampling=Sampling(temperature=3, seed=5)
    )
    data = msgspec.to_builtins(answer)
    for path in data["trace"]["paths"]:
        for passage in path.get("passages", ()):
            if "sampling" in passage:
                passage["sampling"]["seed"] = 6
    report = await replayed(msgspec.convert(data, Answer), tiny)
    assert {"choices", "receipt"} <= {one.what for one in report.differences}
    data["receipt"]["environment"]["seed"] = 6
    report = await replayed(msgspec.convert(data, Answer), tiny)
    assert {one.what for one in report.differences} == {"choices"}


@pytest.mark.parametrize(
    ("place", "what"),
    [
        (("answer",), "text"),
        (("thinking",), "text"),
        (("receipt", "tokens", "thinking"), "receipt"),
        (("receipt", "tokens", "answer"), "receipt"),
        (("receipt", "tokens", "forced"), "receipt"),
        (("receipt", "tokens", "prompt"), "receipt"),
        (("receipt", "tokens", "discarded"), "receipt"),
    ],
    ids=str,
)
async def test_a_text_or_a_count_that_was_changed_is_found(
    tiny: LocalBackend, place: tuple[str, ...], what: str
) -> None:
    data = msgspec.to_builtins(await answered(tiny))
    *above, last = place
    inside = data
    for name in above:
        inside = inside[name]
    inside[last] = inside[last] + ("8" if isinstance(inside[last], str) else 2)
    report = await replayed(msgspec.convert(data, Answer), tiny)
    assert [one.what for one in report.differences] == [what]


async def test_a_trace_that_contradicts_itself_is_a_difference(tiny: LocalBackend) -> None:
    answer = await answered(tiny, method="vote:2", sampling=WARM)
    trace = trace_of(answer)
    root, first, *rest = trace.paths
    for broken in (
        replace(first, parent=7),
        replace(first, begin=10**6),
        replace(first, noise="no number"),
        replace(first, passages=(replace(first.passages[0], ids="1 2 99999999"),)),
    ):
        damaged = replace(trace, paths=(root, broken, *rest))
        report = await replayed(replace(answer, trace=damaged), tiny)
        assert [one.what for one in report.differences] == ["trace"]


async def test_another_template_and_other_weights_are_found_in_a_copy_of_the_model(
    tiny: LocalBackend, tmp_path: Path
) -> None:
    answer = await answered(tiny, sampling=WARM)
    copy = tmp_path / "copy"
    shutil.copytree(locate("tiny"), copy)

    async def differences() -> list[str]:
        backend = open_backend(ModelSpec(model=str(copy)))
        try:
            return [one.what for one in (await replayed(answer, backend)).differences]
        finally:
            backend.close()

    assert await differences() == [], "a copy is the same model"
    weights = load_file(copy / "model.safetensors")
    name = next(name for name in weights if name.endswith("layers.0.mlp.down_proj.weight"))
    weights[name] = weights[name] * 1.02
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    found = await differences()
    assert {"choices", "logits"} & set(found), "the choices, or else the logits, are others"
    save_file(load_file(locate("tiny") / "model.safetensors"), copy / "model.safetensors", {"format": "pt"})
    settings = msgspec.json.decode((copy / "tokenizer_config.json").read_bytes())
    settings["chat_template"] = settings["chat_template"].replace("<|im_start|>assistant", "<|im_start|>user")
    (copy / "tokenizer_config.json").write_bytes(msgspec.json.encode(settings))
    assert {"template", "prompt"} <= set(await differences())
