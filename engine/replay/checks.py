"""What else of a recorded answer can be checked: its model, template and prompt, its text and its counts.

Knows the model's tokenizer and thinking format, not the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from engine.backend import Backend
from engine.load.errors import ModelError
from engine.protocol import Answer, Message, Phase
from engine.protocol.replay import Difference, ReplayRequest
from engine.protocol.trace import Passage, Trace, unpacked
from engine.replay.paths import Path
from engine.thinking.formats import Resolved, UnresolvedMarkers, resolve
from engine.thinking.prompt import Renderer, aside
from engine.thinking.summary import told
from engine.thinking.trace import template_digest


async def checked(
    request: ReplayRequest, trace: Trace, paths: Sequence[Path], backend: Backend
) -> list[Difference]:
    """All that is not as it was recorded, besides the choices."""
    found: list[Difference] = []
    if trace.weights != backend.info.weights_digest:
        found.append(Difference("model", f"the files of {backend.info.name} are not those that it came from"))
    if trace.template != template_digest(backend.tokenizer.chat_template):
        found.append(Difference("template", "the chat template is not the one of then"))
    try:
        style = resolve(backend.tokenizer, backend.info.thinking_format)
    except UnresolvedMarkers:
        style = None
    renderer = Renderer(backend.tokenizer, style, backend.info.context)
    different = await aside(lambda: _prompt(request, paths[0].ids[: paths[0].prompt], renderer))
    found += [Difference("prompt", different)] if different else []
    found += [Difference("text", text) for text in _texts(request.answer, paths, backend, style)]
    found += [Difference("receipt", text) for text in _counts(request.answer, paths)]
    return found


def _prompt(request: ReplayRequest, recorded: Sequence[int], renderer: Renderer) -> str:
    """How the messages are rendered otherwise than they were; empty where they are not."""
    messages = _sent(request, renderer)
    if not messages:
        return "the messages that it answers are not there"
    first = ""
    for think in (True, False):
        try:
            ids = renderer.render(messages, think).ids
        except ModelError as error:
            return str(error)
        if ids == list(recorded):
            return ""
        first = first or _apart(ids, recorded, renderer)
    return first


def _sent(request: ReplayRequest, renderer: Renderer) -> Sequence[Message]:
    """The messages that the model was sent: without those left out, and with what stood for them."""
    answer = request.answer
    left_out = set(answer.receipt.state.turns_left_out)
    named = [
        (message.id or f"message {number}", message) for number, message in enumerate(request.messages, 1)
    ]
    messages = [message for name, message in named if name not in left_out]
    summary = answer.summary.text if answer.summary is not None else ""
    return told(messages, summary, renderer) if messages else ()


def _apart(ids: Sequence[int], recorded: Sequence[int], renderer: Renderer) -> str:
    pairs = enumerate(zip(ids, recorded, strict=False))
    at = next((at for at, (one, other) in pairs if one != other), min(len(ids), len(recorded)))
    now, then = (repr(renderer.tokenizer.decode(part[at : at + 1])) for part in (ids, recorded))
    return (
        f"the messages make {len(ids):,} tokens and made {len(recorded):,}; "
        f"token {at} is {now} and was {then}"
    )


def _texts(answer: Answer, paths: Sequence[Path], backend: Backend, style: Resolved | None) -> Iterator[str]:
    """Where a text is not that of its ids. White space at passages' ends is the format's."""
    markers = style.markers if style is not None else frozenset()

    def differs(text: str, candidate: str, phase: Phase) -> bool:
        passages = _passages(candidate, paths)
        ids = [token for one in passages if one.phase == phase for token in unpacked(one.ids)]
        said = backend.tokenizer.decode([token for token in ids if token not in markers])
        return "".join(said.split()) != "".join(text.split())

    for one in answer.candidates:
        if differs(one.answer, one.id, "answer"):
            yield f"the answer of candidate {one.id} is not that of the recorded tokens"
        if one.kept and differs(answer.answer, one.id, "answer"):
            yield "the answer is not that of the recorded tokens"
        if one.kept and differs(answer.thinking, one.id, "thinking"):
            yield "the thought is not that of the recorded tokens"


def _chain(candidate: str, paths: Sequence[Path]) -> list[int]:
    """The numbers of the paths that a candidate is made of, the last first."""
    at = max((number for number, path in enumerate(paths) if path.candidate == candidate), default=None)
    chain: list[int] = []
    while at is not None:
        chain.append(at)
        at = paths[at].parent
    return chain


def _passages(candidate: str, paths: Sequence[Path]) -> list[Passage]:
    return [passage for at in reversed(_chain(candidate, paths)) for passage, _ in paths[at].passages]


def _counts(answer: Answer, paths: Sequence[Path]) -> Iterator[str]:
    """Where the receipt does not say what the trace does."""
    receipt, tokens = answer.receipt, answer.receipt.tokens
    name = next((one.id for one in answer.candidates if one.kept), "")
    chain = sorted({0, *_chain(name, paths)})  # what came of the prompt itself is the answer's, too
    kept = [passage for number in chain for passage, _ in paths[number].passages]
    # a step of a search and the one after it may both have forwarded the token between them
    shared = max(0, len(chain) - 2)
    traced = {
        "prompt": paths[0].prompt,
        "thinking": _ids(kept, "thinking"),
        "answer": _ids(kept, "answer"),
        "forced": sum(len(passage.ids.split()) for passage in kept if passage.sampling is None),
    }
    for kind, count in traced.items():
        said = getattr(tokens, kind)
        if not count <= said <= count + shared:
            yield f"the receipt counts {said:,} {kind} tokens, the trace {count:,}"
    others = [path for number, path in enumerate(paths) if number not in chain and path.passages]
    most = sum(len(passage.ids.split()) for path in others for passage, _ in path.passages)
    # the last token of a candidate may never have been put through the model
    if not most - len(others) <= tokens.discarded <= most + len(others):
        yield f"the receipt counts {tokens.discarded:,} discarded tokens, the trace {most:,}"
    seeds = {passage.sampling.seed for passage in kept if passage.sampling is not None}
    if seeds - {receipt.environment.seed}:
        traced_seeds = ", ".join(map(str, sorted(seeds)))
        yield f"the receipt's seed is {receipt.environment.seed}, the trace's {traced_seeds}"


def _ids(passages: Sequence[Passage], phase: str) -> int:
    sampled = (one for one in passages if one.sampling is not None and one.phase == phase)
    return sum(len(one.ids.split()) for one in sampled)
