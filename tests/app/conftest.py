"""Answers as an engine gives them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from engine.protocol import Answer, Candidate, Receipt, TokenCounts, derived, measured, unavailable
from engine.protocol.receipt import (
    Compute,
    Cost,
    Energy,
    Environment,
    FlopsByPhase,
    Memory,
    Speed,
    State,
    Times,
)


@pytest.fixture
def make_answer() -> Callable[..., Answer]:
    """Make an answer with a receipt: 17.94 s, 86.6 tok/s, 23 TFLOP, no energy counter."""

    def make(
        text: str = "It is irrational.",
        thinking: str = "Assume p/q in lowest terms.",
        finish: str = "stop",
        candidates: tuple[Candidate, ...] = (),
    ) -> Answer:
        unknown_energy = unavailable("J", "no energy counter")
        receipt = Receipt(
            environment=Environment(
                mull="0.1.0",
                model="tiny",
                revision=None,
                architecture="Qwen3ForCausalLM",
                device="cpu",
                profile="cpu",
                weight_dtype="float32",
                kv_dtype="float32",
                kernel_class="decode",
                threads=1,
                torch="2.13.0",
                transformers="5.17.0",
                seed=0,
                temperature=0.0,
                top_p=1.0,
                top_k=0,
            ),
            tokens=TokenCounts(prompt=30, prefilled=30, thinking=1240, answer=310),
            time=Times(
                load=measured(0.0, "s", "clock"),
                queue=measured(0.0, "s", "clock"),
                prefill=measured(0.25, "s", "clock"),
                first_token=measured(0.3, "s", "clock"),
                decode=measured(17.6, "s", "clock"),
                total=measured(17.94, "s", "clock"),
                per_token=measured(0.0115, "s", "clock"),
                itl_p50=measured(0.0114, "s", "clock"),
                itl_p95=measured(0.013, "s", "clock"),
            ),
            compute=Compute(
                flops=FlopsByPhase(
                    total=derived(23e12, "FLOP", "formula | counts"),
                    prefill=derived(1e12, "FLOP", "formula"),
                    thinking=derived(18e12, "FLOP", "formula"),
                    answer=derived(4e12, "FLOP", "formula"),
                    discarded=derived(0, "FLOP", "formula"),
                ),
                flops_saved_by_cache=derived(0, "FLOP", "formula"),
                bytes=derived(12e12, "B", "formula"),
            ),
            speed=Speed(
                prefill_tok_s=measured(120.0, "tok/s", "clock"),
                decode_tok_s=measured(86.6, "tok/s", "clock"),
                roofline_tok_s=unavailable("tok/s", "no bandwidth known"),
                mbu=unavailable("1", "no bandwidth known"),
                mfu=unavailable("1", "no peak known"),
            ),
            memory=Memory(
                weights=measured(8 * 2**30, "B", "allocator"),
                kv_used=measured(2**28, "B", "pages"),
                kv_allocated=measured(2**28, "B", "pages"),
                peak=measured(9 * 2**30, "B", "process"),
                free=measured(2**30, "B", "system"),
            ),
            energy=Energy(
                total=unknown_energy,
                net=unknown_energy,
                prefill=unknown_energy,
                thinking=unknown_energy,
                answer=unknown_energy,
                discarded=unknown_energy,
            ),
            cost=Cost(money=unavailable("money"), co2=unavailable("g")),
            steps=(),
            state=State(),
        )
        return Answer(
            model="tiny",
            method="cot",
            answer=text,
            thinking=thinking,
            finish=finish,
            candidates=candidates,
            receipt=receipt,
        )

    return make
