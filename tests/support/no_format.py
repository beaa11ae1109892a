"""A tokenizer whose chat template marks no thoughts, made of the bundled one."""

from __future__ import annotations

import shutil
from pathlib import Path

from engine.load.locate import locate
from engine.load.tokenizer import HubTokenizer

TEMPLATE = "{% for m in messages %}{{ '[' + m.role + ']' + m.content }}{% endfor %}[assistant]"


def tokenizer_without_format(folder: Path) -> HubTokenizer:
    """Written to a new folder."""
    shutil.copytree(locate("tiny"), folder)
    for name in ("mull.json", "chat_template.jinja"):
        (folder / name).unlink(missing_ok=True)
    (folder / "chat_template.jinja").write_text(TEMPLATE, "utf-8")
    return HubTokenizer(folder)
