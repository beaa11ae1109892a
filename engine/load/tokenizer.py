"""Text to ids and back through the model's own tokenizer and chat template. Knows no weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from engine.load.errors import ModelError
from engine.load.gguf.header import read_header
from engine.load.gguf.tokenizer import read_tokenizer
from engine.load.json_file import read_json
from engine.load.tokenizer_parts import TokenizerParts
from engine.protocol import Message

FALLBACK_TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
"""For a model without a template of its own."""

_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_DOWNLOAD = "download the file again"
_SENTENCE_ENDS = (".", "!", "?", "\n", "。", "！", "？", "…")


class HubTokenizer:
    """Implements `engine.backend.Tokenizer` over a folder in Hugging Face format, or a GGUF file."""

    def __init__(self, path: Path) -> None:
        """Reads the tokenizer, its special tokens and the chat template. Raises ModelError."""
        found = read_tokenizer(read_header(path)) if path.is_file() else _read_folder(path)
        self._path = path
        self._tokenizer = found.tokenizer
        # What training left in the file: a prompt may be neither cut nor filled up.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._specials = found.specials
        self.has_template = found.template is not None
        begins = "{{ bos_token }}" if found.adds_bos else ""
        self.chat_template = found.template or begins + FALLBACK_TEMPLATE
        self.eos_ids = found.eos_ids
        self._ending: dict[str, frozenset[int]] = {}
        self.size: int = self._tokenizer.get_vocab_size(with_added_tokens=True)

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        """Ids by their spelling, special tokens included."""
        found: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        return found

    def render(self, messages: Sequence[Message], **template_arguments: object) -> list[int]:
        """The prompt's ids by the chat template, generation prompt included. Raises ModelError."""
        from transformers.utils.chat_template_utils import render_jinja_template

        chat = [{"role": message.role, "content": message.content} for message in messages]
        try:
            rendered = render_jinja_template(
                conversations=[chat],
                chat_template=self.chat_template,
                add_generation_prompt=True,
                **self._specials,
                **template_arguments,
            )
        except Exception as error:  # a template is a program from elsewhere: it may raise anything
            cause = " ".join(str(error).split())[:300]
            raise ModelError(
                f"the chat template of {self._path} refuses this conversation: {cause}"
            ) from error
        return self.encode(rendered[0][0])

    def encode(self, text: str) -> list[int]:
        """Ids of a text, special tokens in it included, nothing added; a lone surrogate becomes U+FFFD."""
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens included, spaces untouched."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        return text

    def sentence_ends(self) -> frozenset[int]:
        """Ids whose text ends a line or a sentence."""
        return self._sentence_ends

    def ending(self, text: str) -> frozenset[int]:
        """Ids whose text ends with this."""
        if text not in self._ending:
            self._ending[text] = self._ids_ending((text,))
        return self._ending[text]

    @cached_property
    def _sentence_ends(self) -> frozenset[int]:
        return self._ids_ending(_SENTENCE_ENDS)

    def _ids_ending(self, texts: tuple[str, ...]) -> frozenset[int]:
        from tokenizers.pre_tokenizers import ByteLevel

        # A vocabulary spells its tokens either in characters or in the byte-level alphabet.
        bytes_to_text = ByteLevel(add_prefix_space=False, use_regex=False)
        spelled = {bytes_to_text.pre_tokenize_str(end)[0][0] for end in texts}
        ends = (*spelled, *texts, *(("<0x0A>",) if "\n" in texts else ()))
        special = {id for id, token in self._tokenizer.get_added_tokens_decoder().items() if token.special}
        return frozenset(
            id for text, id in self.vocabulary.items() if text.endswith(ends) and id not in special
        )

    def plain_ids(self) -> list[int]:
        """All ids that are text and no special token."""
        special = {id for id, token in self._tokenizer.get_added_tokens_decoder().items() if token.special}
        vocabulary: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        return sorted(set(vocabulary.values()) - special)


def _read_folder(folder: Path) -> TokenizerParts:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ModelError(
            f"{folder} has no tokenizer.json", "use a repository with a fast tokenizer, or convert it"
        )
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises a bare Exception
        raise ModelError(f"{path} is not a readable tokenizer: {error}", _DOWNLOAD) from error
    settings = _optional_json(folder / "tokenizer_config.json")
    named = {**_optional_json(folder / "special_tokens_map.json"), **settings}
    specials = {name: text for name in _SPECIAL if (text := _content(named.get(name)))}
    ends = _eos_ids(folder, tokenizer, specials)
    return TokenizerParts(tokenizer, specials, _template(folder, settings), ends)


def _eos_ids(folder: Path, tokenizer: tokenizers.Tokenizer, specials: Mapping[str, str]) -> frozenset[int]:
    """End-of-sequence ids of the generation settings, the model and the tokenizer together."""
    found: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        value = _optional_json(folder / name).get("eos_token_id")
        values = value if isinstance(value, list) else [value]
        found.update(id for id in values if isinstance(id, int))
    if (text := specials.get("eos_token")) is not None:
        id = tokenizer.token_to_id(text)
        found.update(() if id is None else (id,))
    return frozenset(found)


def _template(folder: Path, settings: dict[str, Any]) -> str | None:
    """The model's chat template: of its own file, else of the tokenizer's settings."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"{path} cannot be read: {error}", _DOWNLOAD) from error
    template = settings.get("chat_template") or _optional_json(folder / "chat_template.json").get(
        "chat_template"
    )
    if isinstance(template, list):  # several, by name
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _content(token: Any) -> str | None:
    """The text of a special token, stored as it is or as a description of an added token."""
    value = token.get("content") if isinstance(token, dict) else token
    return value if isinstance(value, str) else None


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
