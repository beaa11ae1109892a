"""A thinking format is recognized by its template and its markers are ids, or it fails loudly."""

from importlib.resources import as_file, files
from pathlib import Path

import pytest

from engine.load.tokenizer import HubTokenizer
from engine.protocol import Message
from engine.thinking.formats import UnresolvedMarkers, resolve

# The conventions of the official templates, as far as one conversation shows them.
QWEN3 = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}"
)
DEEPSEEK_R1 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '<｜User｜>' + m.content }}{% else %}"
    "{{ '<｜Assistant｜>' + m.content.split('</think>')[-1] }}{% endif %}{% endfor %}"
    "{{ '<｜Assistant｜><think>\n' }}"
)
QUESTION = (Message("user", "How many?"),)


@pytest.fixture
def tokenizer() -> HubTokenizer:
    with as_file(files("assets") / "tiny") as folder:
        return HubTokenizer(Path(folder))


def test_qwen3_is_switched_off_by_its_template_and_ended_by_its_sentence(tokenizer: HubTokenizer) -> None:
    tokenizer.chat_template = QWEN3
    style = resolve(tokenizer)
    assert style is not None and style.format.name == "qwen3"
    assert "limited time by the user" in tokenizer.decode(style.forced_end)
    on, opened = style.prompt(tokenizer, QUESTION, think=True)
    assert not opened and style.start not in on
    off, opened = style.prompt(tokenizer, QUESTION, think=False)
    assert not opened and tokenizer.decode(off).endswith("<think>\n\n</think>\n\n")


def test_deepseek_opens_the_thought_itself_and_is_kept_from_it_by_ending_it(tokenizer: HubTokenizer) -> None:
    tokenizer.chat_template = DEEPSEEK_R1
    style = resolve(tokenizer)
    assert style is not None and style.format.name == "deepseek-r1"
    on, opened = style.prompt(tokenizer, QUESTION, think=True)
    assert opened and tokenizer.decode(on).endswith("<think>\n")
    off, opened = style.prompt(tokenizer, QUESTION, think=False)
    assert not opened and off[-len(style.forced_end) :] == list(style.forced_end)


def test_the_bundled_model_says_which_format_it_has(tokenizer: HubTokenizer) -> None:
    style = resolve(tokenizer, "mull-tiny")
    assert style is not None
    assert tokenizer.decode(style.forced_end) == "\n</think>\n\n"


def test_a_model_without_thinking_has_no_format(tokenizer: HubTokenizer) -> None:
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    assert resolve(tokenizer) is None


def test_markers_that_are_no_single_tokens_are_an_error(tokenizer: HubTokenizer) -> None:
    tokenizer.chat_template = QWEN3
    plain_encode = tokenizer.encode
    tokenizer.encode = lambda text: [  # type: ignore[method-assign]
        part for word in text.replace("<think>", "<thi nk>").split(" ") for part in plain_encode(word)
    ]
    with pytest.raises(UnresolvedMarkers, match="thinking cannot be limited"):
        resolve(tokenizer)
