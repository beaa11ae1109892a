"""Who chooses among several answers, as a person names it."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.errors import CommandError
from app.verifying import MOST_BYTES, read_verifier, verifier_name
from engine.protocol import Verifier


@pytest.mark.parametrize("text", ["steps", "confidence", "judge", "consistency"])
def test_a_verifier_goes_by_its_name(text: str) -> None:
    assert read_verifier(verifier_name(text)) == Verifier(text)  # type: ignore[arg-type]


def test_tests_are_read_from_their_file(tmp_path: Path) -> None:
    (tmp_path / "a:b.py").write_text("assert f(1) == 'é'", encoding="utf-8")
    text = verifier_name(f"tests:{tmp_path}/a:b.py")
    assert read_verifier(text) == Verifier("tests", "assert f(1) == 'é'")


@pytest.mark.parametrize("text", ["", "stepz", "tests", "tests:", "judge:file", "steps:"])
def test_what_names_no_verifier_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        verifier_name(text)


@pytest.mark.parametrize(
    ("content", "why"),
    [(None, "no such file"), (b"\xff\xfe", "UTF-8"), (b"#" * (MOST_BYTES + 1), "longer than 1 MiB")],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None, why: str) -> None:
    path = tmp_path / "t.py"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CommandError, match=why) as raised:
        read_verifier(f"tests:{path}")
    assert str(path) in str(raised.value) and raised.value.status == 2
