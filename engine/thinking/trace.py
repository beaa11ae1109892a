"""The trace of an answer: what each of its ids came from, as the nodes have noted it. Knows no torch."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from itertools import pairwise

from engine.backend import Backend, Node, Origin
from engine.protocol import AnswerRequest, Sampling
from engine.protocol.trace import Passage, Raised, Trace, TracedPath, packed


def template_digest(template: str) -> str:
    """Names a chat template."""
    return blake2b(template.encode(), digest_size=16).hexdigest()


def trace(request: AnswerRequest, backend: Backend, nodes: Iterable[tuple[str, Node]]) -> Trace | None:
    """Of all nodes of an answer, by candidate; the nodes that they go on from come before them.

    None where nothing was sampled, as where the prompt was not read to its end.
    """
    known: dict[int, int] = {}
    paths: list[TracedPath] = []

    def add(candidate: str, node: Node) -> int:
        if id(node) not in known:
            parent = None if node.parent is None else add("", node.parent)
            known[id(node)] = len(paths)
            paths.append(_path(candidate, node, parent))
        return known[id(node)]

    for candidate, node in nodes:
        add(candidate, node)
    if not any(path.passages for path in paths):
        return None
    return Trace(
        spec=request.spec,
        fingerprint=backend.info.fingerprint,
        weights=backend.info.weights_digest,
        template=template_digest(backend.tokenizer.chat_template),
        messages=request.messages,
        paths=tuple(paths),
    )


def _path(candidate: str, node: Node, parent: int | None) -> TracedPath:
    return TracedPath(
        candidate=candidate,
        noise=f"{node.path:016x}",
        prompt=packed(node.ids[: node.begun]) if parent is None else "",
        parent=parent,
        begin=0 if parent is None else node.begun,
        passages=tuple(_passage(origin, node.ids) for origin in _joined(node.origins)),
    )


def _joined(origins: list[Origin]) -> list[Origin]:
    """With those as one that followed each other in the same way: a thought is sampled line by line."""
    ends = [at for at, (one, other) in enumerate(pairwise(origins), 1) if not _alike(one, other)]
    groups = [origins[begin:end] for begin, end in pairwise([0, *ends, len(origins)])]
    return [
        Origin(
            phase=group[0].phase,
            begin=group[0].begin,
            end=group[-1].end,
            sampler=group[0].sampler,
            banned=group[0].banned,
            raised=[raised for one in group for raised in one.raised],
            dropped=group[-1].dropped,
            logits=sum(one.logits for one in group),
        )
        for group in groups
        if group
    ]


def _alike(one: Origin, other: Origin) -> bool:
    """Whether one goes on in the other."""
    same = (one.phase, one.sampler, one.banned) == (other.phase, other.sampler, other.banned)
    return same and one.dropped is None


def _passage(origin: Origin, ids: list[int]) -> Passage:
    sampler, sampling = origin.sampler, None
    if sampler is not None:
        sampling = Sampling(
            temperature=sampler.temperature, top_p=sampler.top_p, top_k=sampler.top_k, seed=sampler.seed
        )
    return Passage(
        phase=origin.phase,
        ids=packed(ids[origin.begin : origin.end]),
        sampling=sampling,
        banned=tuple(sorted(origin.banned)),
        raised=tuple(Raised(*one) for one in origin.raised),
        dropped=origin.dropped,
        logits=origin.logits,
    )
