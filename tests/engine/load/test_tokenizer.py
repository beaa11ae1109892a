"""The tokenizer gives what transformers' own gives, for the same files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from random_checkpoint import save_tokenizer
from transformers import AutoTokenizer

from engine.load.errors import ModelError
from engine.load.locate import locate
from engine.load.tokenizer import HubTokenizer
from engine.protocol import Message

CONVERSATION = [
    Message("system", "Be brief."),
    Message("user", "What is 12 + 30?"),
    Message("assistant", "<think>\n12+30=42\n</think>\n\n42"),
    Message("user", "É, 中文, 👩‍🚀 <|im_end|>\n\tand  two spaces"),
]
TEXTS = [message.content for message in CONVERSATION] + [
    "",
    " leading",
    "trailing ",
    "a\r\nb",
    "<|im_start|>user",
]


@pytest.fixture
def tiny() -> Path:
    return locate("tiny")


@pytest.mark.parametrize("enable_thinking", [True, False])
def test_prompts_are_rendered_as_transformers_renders_them(tiny: Path, enable_thinking: bool) -> None:
    expected = AutoTokenizer.from_pretrained(tiny).apply_chat_template(
        [{"role": message.role, "content": message.content} for message in CONVERSATION],
        add_generation_prompt=True,
        enable_thinking=enable_thinking,
        return_dict=False,
    )
    assert HubTokenizer(tiny).render(CONVERSATION, enable_thinking=enable_thinking) == expected


def test_ids_and_text_are_those_of_transformers(tiny: Path) -> None:
    stock, own = AutoTokenizer.from_pretrained(tiny), HubTokenizer(tiny)
    for text in TEXTS:
        ids = own.encode(text)
        assert ids == stock.encode(text, add_special_tokens=False)
        assert own.decode(ids) == stock.decode(ids, clean_up_tokenization_spaces=False)
    assert own.eos_ids == {stock.eos_token_id}


def test_a_lone_surrogate_becomes_a_replacement_character(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    tokenizer = HubTokenizer(tmp_path)
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffdb"
    assert tokenizer.decode(tokenizer.encode("👍")[:2]) == "\ufffd"


def test_sentence_ends_are_found_in_the_byte_alphabet(tiny: Path) -> None:
    tokenizer = HubTokenizer(tiny)
    ends = tokenizer.sentence_ends()
    for text in (".", "!", "?", "\n"):
        assert tokenizer.encode(text)[-1] in ends, text
    for id in ends:
        assert tokenizer.decode([id]).endswith((".", "!", "?", "\n"))
    assert not ends & {tokenizer.encode(text)[0] for text in ("a", "7", " ", ",", "<|im_end|>", "</think>")}


def test_settings_of_training_neither_cut_nor_fill_a_prompt(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    content["truncation"] = {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
    content["padding"] = {
        "strategy": {"Fixed": 20}, "direction": "Right", "pad_to_multiple_of": None,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>",
    }  # fmt: skip
    path.write_text(json.dumps(content))
    assert len(HubTokenizer(tmp_path).encode("123456789")) == 9


def test_a_model_without_a_template_gets_a_plain_one_and_says_so(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    tokenizer = HubTokenizer(tmp_path)
    assert not tokenizer.has_template
    rendered = tokenizer.decode(tokenizer.render([Message("user", "Hello")]))
    assert rendered == "user: Hello\nassistant:"


@pytest.mark.parametrize("where", ["file", "settings", "list"])
def test_a_template_is_found_wherever_repositories_keep_it(tmp_path: Path, where: str) -> None:
    save_tokenizer(tmp_path)
    template = "{{ bos_token }}{{ messages[0].content }}{{ greeting }}"
    settings: dict[str, object] = {"bos_token": {"content": "<pad>"}}
    if where == "file":
        (tmp_path / "chat_template.jinja").write_text(template)
    elif where == "settings":
        settings["chat_template"] = template
    else:
        named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": template}]
        settings["chat_template"] = named
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = HubTokenizer(tmp_path)
    assert tokenizer.has_template
    assert tokenizer.decode(tokenizer.render([Message("user", "Hi")], greeting="!")) == "<pad>Hi!"


@pytest.mark.parametrize(
    "template",
    ["{{ raise_exception('no system role') }}", "{% for %}", "{{ ''.__class__.__mro__ }}", "{{ 1/0 }}"],
)
def test_a_template_that_fails_gives_one_line(tmp_path: Path, template: str) -> None:
    save_tokenizer(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(template)
    with pytest.raises(ModelError, match="chat template") as caught:
        HubTokenizer(tmp_path).render([Message("user", "Hello")])
    assert "\n" not in caught.value.message


def test_every_source_of_end_ids_is_read(tmp_path: Path, tiny: Path) -> None:
    shutil.copytree(tiny, tmp_path / "model")
    (tmp_path / "model" / "generation_config.json").write_text('{"eos_token_id": [7, 9]}')
    own = HubTokenizer(tiny).eos_ids
    assert HubTokenizer(tmp_path / "model").eos_ids == {7, 9} | own
