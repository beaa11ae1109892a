"""What is known of each model family's thinking format. Data alone: `formats` finds and resolves them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.tasks.steps import CHECK_PHRASE


@dataclass(frozen=True)
class ThinkingFormat:
    """How a family marks its thoughts. `signs` are substrings of the chat template, all of which must occur.

    One without `start` and `end` marks nothing: its thought is what comes between `opening` and the end of
    the turn, for which `forced_end` is put in its place.
    `opening` is what is put into the model's mouth to begin a thought, by default `start`, the marker by
    which one is recognized. `forced_end` ends a thought and leads to the answer; it contains the marker
    `end`. Where more than this marker leads from a thought to the answer, `answer_opening` is forced after
    it. A family without `off` arguments is kept from thinking by `skip`, or by ending its thought before it
    begins. `lead` comes after a forced end where nothing but a short answer is wanted, whose box a closing
    brace ends. `step_end` parts the steps of a thought. `wait` is what a thought that ends too early goes on
    with (s1, arXiv:2501.19393).
    """

    name: str
    signs: tuple[str, ...]
    forced_end: str
    start: str = "<think>"
    end: str = "</think>"
    opening: str = ""
    answer_opening: str = ""
    on: Mapping[str, object] = field(default_factory=dict)
    off: Mapping[str, object] | None = None
    skip: str = ""
    lead: str = "**Final Answer**\n\nThe final answer is \\boxed{"
    step_end: str = "\n\n"
    sums: bool = False
    """It writes sums as `12+7=19` while it thinks, and follows no instructions."""
    wait: str = "Wait"
    reopens: bool = True
    """It may open another thought in the midst of an answer."""
    verified: bool = True
    """The family's own template was read, and tests hold to what it does; else this is hearsay."""


_SWITCH: Mapping[str, object] = {"enable_thinking": True}
_SWITCH_OFF: Mapping[str, object] = {"enable_thinking": False}
_PLAIN_END = "\n</think>\n\n"

STEP_BY_STEP = "step by step"
"""Of the way to have a model think in words that was never taught to: chosen by its name only."""

FORMATS: tuple[ThinkingFormat, ...] = (
    # The bundled model; chosen by its name only, for its template looks like Qwen3's.
    ThinkingFormat(
        name="mull-tiny",
        signs=("mull-tiny",),
        forced_end=_PLAIN_END,
        on=_SWITCH,
        off=_SWITCH_OFF,
        step_end="\n",
        sums=True,
        lead="",  # its answers are nothing else
        wait=f"{CHECK_PHRASE}\n",
    ),
    ThinkingFormat(
        name="gpt-oss",
        signs=("<|channel|>analysis<|message|>", "<|start|>assistant"),
        start="<|channel|>",
        end="<|end|>",
        opening="<|channel|>analysis<|message|>",
        answer_opening="<|start|>assistant<|channel|>final<|message|>",
        forced_end="<|end|><|start|>assistant<|channel|>final<|message|>",
        skip="<|channel|>final<|message|>",
        reopens=False,
    ),
    ThinkingFormat(
        name="gemma-4",
        signs=("<|channel>thought", "<channel|>", "<|turn>"),
        start="<|channel>",
        end="<channel|>",
        opening="<|channel>thought\n",
        forced_end="\n<channel|>",
        on=_SWITCH,
        off=_SWITCH_OFF,
    ),
    ThinkingFormat(
        name="seed-oss",
        signs=("<seed:think>", "<seed:bos>"),
        start="<seed:think>",
        end="</seed:think>",
        forced_end="\n</seed:think>\n",
        skip="<seed:think></seed:think>\n",
    ),
    ThinkingFormat(
        name="glm",
        signs=("[gMASK]<sop>", "<think>", "enable_thinking"),
        forced_end="</think>\n",
        opening="\n<think>",
        on=_SWITCH,
        off=_SWITCH_OFF,
    ),
    ThinkingFormat(
        name="mistral",
        signs=("[THINK]", "[/THINK]", "[INST]"),
        start="[THINK]",
        end="[/THINK]",
        forced_end="[/THINK]",
        skip="[THINK][/THINK]",
        verified=False,
    ),
    ThinkingFormat(
        name="cohere",
        signs=("<|START_THINKING|>", "<|START_RESPONSE|>"),
        start="<|START_THINKING|>",
        end="<|END_THINKING|>",
        answer_opening="<|START_RESPONSE|>",
        forced_end="<|END_THINKING|><|START_RESPONSE|>",
        skip="<|START_THINKING|><|END_THINKING|><|START_RESPONSE|>",
        reopens=False,
        verified=False,
    ),
    ThinkingFormat(
        name="smollm3",
        signs=("<|im_start|>", "<think>", "Reasoning Mode"),
        forced_end=_PLAIN_END,
        on=_SWITCH,
        off=_SWITCH_OFF,
        verified=False,
    ),
    # The sentence is the one that the Qwen3 technical report (section 4.5) uses for its thinking budget.
    ThinkingFormat(
        name="qwen3",
        signs=("<|im_start|>", "<think>", "enable_thinking"),
        forced_end=(
            "\n\nConsidering the limited time by the user, I have to give the solution based on the thinking "
            "directly now.\n</think>\n\n"
        ),
        on=_SWITCH,
        off=_SWITCH_OFF,
    ),
    # A hybrid: both ways of thinking are arguments of the template.
    ThinkingFormat(
        name="deepseek-v3.1",
        signs=("<｜Assistant｜>", "</think>", "if not thinking"),
        forced_end="</think>",
        on={"thinking": True},
        off={"thinking": False},
    ),
    # DeepSeek-R1 and its distills: the template opens the thought itself and knows no way to switch it off.
    ThinkingFormat(name="deepseek-r1", signs=("<｜Assistant｜><think>",), forced_end=_PLAIN_END),
    ThinkingFormat(name="deepseek-r1", signs=("<｜Assistant｜>", "</think>"), forced_end=_PLAIN_END),
    # Families that always think, or whose switch is not known here, by what they have in common.
    ThinkingFormat(
        name="switched <think>", signs=("<think>", "</think>", "enable_thinking"), forced_end=_PLAIN_END,
        on=_SWITCH, off=_SWITCH_OFF, verified=False,
    ),
    ThinkingFormat(name="<think>", signs=("<think>", "</think>"), forced_end=_PLAIN_END, verified=False),
    # Zero-shot chain of thought: both phrases are those of Kojima et al. 2022 (arXiv:2205.11916), section 3.
    ThinkingFormat(
        name=STEP_BY_STEP, signs=(f"mull: {STEP_BY_STEP}",), start="", end="",
        opening="Let's think step by step.\n", forced_end="\n\nTherefore, the answer is ",
        lead="", step_end="\n", reopens=False,
    ),
)  # fmt: skip
