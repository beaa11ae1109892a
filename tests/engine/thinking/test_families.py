"""Each family's thoughts are opened, cut, ended and skipped as its own template does it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import scripted_checkpoint
from answer_run import Run
from tokenizers import Tokenizer

from engine.load.locate import locate
from engine.load.tokenizer import HubTokenizer
from engine.protocol import Message, ModelSpec, Notice
from engine.setup import open_backend
from engine.thinking.families import FORMATS
from engine.thinking.formats import resolve

TINY = locate("tiny")
QUESTION = (Message("user", "How many?"),)
USER = "{% for m in messages %}{{ '[' + m.role + ']' + m.content }}{% endfor %}"


@dataclass(frozen=True)
class Family:
    """The end of a family's own template, as far as it concerns thoughts, and what follows from it.

    `on` and `off` are what a prompt ends with, with a thought wanted and without; `after` is what lies
    between a thought that ended by itself and the answer.
    """

    name: str
    template: str
    specials: tuple[str, ...]
    on: str
    off: str
    after: str


FAMILIES = (
    Family(
        "gpt-oss",
        "{# a thought: <|start|>assistant<|channel|>analysis<|message|> #}"
        + USER
        + "{{ '<|start|>assistant' }}",
        ("<|start|>", "<|channel|>", "<|message|>", "<|end|>"),
        on="<|start|>assistant",
        off="<|start|>assistant<|channel|>final<|message|>",
        after="<|end|><|start|>assistant<|channel|>final<|message|>",
    ),
    Family(
        "gemma-4",
        USER + "{{ '<|turn>model\n' }}{% if not enable_thinking | default(false) %}"
        "{{ '<|channel>thought\n<channel|>' }}{% endif %}",
        ("<|turn>", "<|channel>", "<channel|>"),
        on="<|turn>model\n",
        off="<|turn>model\n<|channel>thought\n<channel|>",
        after="<channel|>",
    ),
    Family(
        "seed-oss",
        "{% set think_begin_token = '<seed:think>' %}" + USER + "{{ '<seed:bos>assistant\n' }}",
        ("<seed:bos>", "<seed:think>", "</seed:think>"),
        on="<seed:bos>assistant\n",
        off="<seed:bos>assistant\n<seed:think></seed:think>\n",
        after="</seed:think>",
    ),
    Family(
        "glm",
        "[gMASK]<sop>" + USER + "<|assistant|>"
        "{{ '\n<think></think>' if (enable_thinking is defined and not enable_thinking) else '' }}",
        ("<|assistant|>",),
        on="<|assistant|>",
        off="<|assistant|>\n<think></think>",
        after="</think>",
    ),
    Family(
        "deepseek-v3.1",
        USER
        + "{{ '<｜Assistant｜>' }}{% if not thinking %}{{ '</think>' }}{% else %}{{ '<think>' }}{% endif %}",
        ("<｜Assistant｜>",),
        on="<｜Assistant｜><think>",
        off="<｜Assistant｜></think>",
        after="</think>",
    ),
)
SCRIPT_WORDS = "123"


def tokenizer_of(family: Family, folder: Path) -> HubTokenizer:
    """The bundled model's tokenizer with the family's markers and template."""
    shutil.copytree(TINY, folder)
    for name in ("mull.json", "chat_template.jinja"):
        (folder / name).unlink(missing_ok=True)
    plain = Tokenizer.from_file(str(folder / "tokenizer.json"))
    plain.add_special_tokens(list(family.specials))
    plain.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(family.template, "utf-8")
    return HubTokenizer(folder)


@pytest.fixture(params=FAMILIES, ids=lambda family: family.name)
def family(request: pytest.FixtureRequest) -> Family:
    found: Family = request.param
    return found


def test_a_family_is_known_by_its_template_and_its_prompt_thinks_or_does_not(
    family: Family, tmp_path: Path
) -> None:
    tokenizer = tokenizer_of(family, tmp_path / "tokenizer")
    style = resolve(tokenizer)
    assert style is not None and style.format.name == family.name
    assert style.format.verified
    on, opened = style.prompt(tokenizer, QUESTION, think=True)
    assert tokenizer.decode(on).endswith(family.on) and opened == (style.start in on[-1:])
    off, opened = style.prompt(tokenizer, QUESTION, think=False)
    assert tokenizer.decode(off).endswith(family.off) and not opened


@pytest.mark.parametrize("ends", [True, False], ids=["ends by itself", "is cut"])
async def test_a_thought_ends_in_an_answer_and_no_marker_is_anybodys_text(
    family: Family, ends: bool, tmp_path: Path
) -> None:
    tokenizer = tokenizer_of(family, tmp_path / "tokenizer")
    style = resolve(tokenizer)
    assert style is not None
    thought, more, said = tokenizer.encode(SCRIPT_WORDS)
    opened = style.opening[-1]
    into_answer = style.answer_opening[-1] if ends and style.answer_opening else style.forced_end[-1]
    if ends and not style.answer_opening:
        into_answer = style.end
    [eos, *_] = tokenizer.eos_ids
    alike = into_answer == opened  # then thought and answer begin alike, and the answer is cut short
    script = {thought: more, more: style.end if ends else thought, said: eos}
    script |= {into_answer: said, opened: thought}
    folder = scripted_checkpoint.write(tmp_path / "model", tmp_path / "tokenizer", script, tokenizer.size)
    backend = open_backend(ModelSpec(model=str(folder), draft="off"))
    try:
        done = await Run()(backend, think=40, max_tokens=2 if alike else None)
        unthought = await Run()(backend, think="off", max_tokens=2)
    finally:
        backend.close()
    answer, spent = done.answer, done.answer.receipt.tokens
    assert answer.answer == ("12" if alike else "3")
    assert answer.thinking == "12" if ends else answer.thinking.startswith("1212")
    assert "<" not in answer.thinking and "final" not in answer.thinking
    assert answer.finish == ("length" if alike else "stop" if ends else "budget")
    assert spent.thinking + spent.forced <= 40
    assert spent.forwarded() == done.forwarded
    assert unthought.answer.receipt.tokens.thinking == 0


async def test_a_family_that_nobody_verified_says_so_once(tmp_path: Path) -> None:
    hearsay = Family(
        "mistral",
        "[INST]" + USER + "{# [THINK] [/THINK] #}",
        ("[THINK]", "[/THINK]"),
        on="",
        off="",
        after="",
    )
    tokenizer = tokenizer_of(hearsay, tmp_path / "tokenizer")
    thought, said, _ = tokenizer.encode(SCRIPT_WORDS)
    end, [eos, *_] = tokenizer.encode("[/THINK]")[0], tokenizer.eos_ids
    script = {tokenizer.encode("[THINK]")[0]: thought, thought: end, end: said, said: eos}
    folder = scripted_checkpoint.write(tmp_path / "model", tmp_path / "tokenizer", script, tokenizer.size)
    backend = open_backend(ModelSpec(model=str(folder), draft="off"))
    try:
        first, second = await Run()(backend), await Run()(backend)
    finally:
        backend.close()
    told = [
        [event.text for event in run.events if isinstance(event, Notice) and "hearsay" in event.text]
        for run in (first, second)
    ]
    assert len(told[0]) == 1 and not told[1]
    assert (first.answer.thinking, first.answer.answer) == ("1", "2")


def test_names_of_families_tell_them_apart() -> None:
    verified = [known.name for known in FORMATS if known.verified]
    assert {family.name for family in FAMILIES} <= set(verified)
    assert len({(known.name, known.signs) for known in FORMATS}) == len(FORMATS)
