"""The bundled tokenizer and chat template, as transformers loads them."""

import random
from importlib.resources import as_file, files

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from engine.tasks.corpus import IGNORED, encode
from engine.tasks.examples import Example, Message, Segment, draw_example
from engine.tasks.steps import CHECK_PHRASE
from engine.tasks.tokenizer import SPECIALS, build_tokenizer


def _bundled() -> PreTrainedTokenizerBase:
    with as_file(files("assets") / "tiny") as folder:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)


TOKENIZER = _bundled()


def _render(messages: list[dict[str, str]], **options: bool) -> str:
    return str(TOKENIZER.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options))


@given(st.text())
def test_any_text_survives_the_tokenizer(text: str) -> None:
    ids = TOKENIZER.encode(text, add_special_tokens=False)
    assert TOKENIZER.decode(ids) == text


@pytest.mark.parametrize("special", SPECIALS)
def test_a_special_is_a_single_id(special: str) -> None:
    assert TOKENIZER.encode(special, add_special_tokens=False) == [TOKENIZER.convert_tokens_to_ids(special)]


def test_every_digit_and_newline_is_a_token_of_its_own() -> None:
    pieces = TOKENIZER.tokenize("4+17=21:21\n\n")
    assert [TOKENIZER.convert_tokens_to_string([piece]) for piece in pieces] == list("4+17=21:21\n\n")


def test_building_the_tokenizer_again_gives_the_bundled_one() -> None:
    rebuilt = build_tokenizer()
    assert rebuilt.get_vocab() == TOKENIZER.get_vocab()
    assert rebuilt.chat_template == TOKENIZER.chat_template


def test_thinking_off_closes_an_empty_thought_and_on_leaves_it_to_the_model() -> None:
    question = [{"role": "user", "content": "What is 1 + 2?"}]
    turn = "<|im_start|>user\nWhat is 1 + 2?<|im_end|>\n<|im_start|>assistant\n"
    assert _render(question) == _render(question, enable_thinking=True) == turn
    assert _render(question, enable_thinking=False) == turn + "<think>\n\n</think>\n\n"


def test_earlier_thoughts_are_stripped_and_the_system_message_stays() -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is 1 + 2?"},
        {"role": "assistant", "content": "<think>\n1+2=3:3\n</think>\n\n3"},
        {"role": "user", "content": "Hello"},
    ]
    assert _render(messages) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nWhat is 1 + 2?<|im_end|>\n<|im_start|>assistant\n3<|im_end|>\n"
        "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    )


def test_training_examples_begin_exactly_as_the_chat_template_renders_them() -> None:
    rng = random.Random(2)
    for example in (draw_example(rng) for _ in range(200)):
        messages = [{"role": m.role, "content": m.content} for m in example.history]
        rendered = _render([*messages, {"role": "user", "content": example.prompt}])
        encoded = encode(example, TOKENIZER)
        assert TOKENIZER.decode(encoded.ids).startswith(rendered)
        prompt = TOKENIZER.encode(rendered, add_special_tokens=False)
        assert encoded.ids[: len(prompt)] == prompt
        assert set(encoded.labels[: len(prompt)]) == {IGNORED}


def test_a_planted_mistake_carries_no_loss_and_its_correction_does() -> None:
    wrong, right = Segment("2+2=5\n", learned=False), Segment(CHECK_PHRASE + "\n2+2=4\n</think>\n\n4")
    example = Example(
        (Message("system", "Be brief."),), "What is 2 + 2?", (Segment("<think>\n"), wrong, right)
    )
    encoded = encode(example, TOKENIZER)
    learned = [token for token, label in zip(encoded.ids, encoded.labels, strict=True) if label != IGNORED]
    assert TOKENIZER.decode(learned) == "<think>\n" + right.text + "<|im_end|>"


def test_a_cut_thought_keeps_its_first_tokens() -> None:
    example = Example((), "What is 2 + 2?", (Segment("2+2=4\n", keep=0.5),))
    assert TOKENIZER.decode(encode(example, TOKENIZER).ids).endswith("assistant\n2+2<|im_end|>")
