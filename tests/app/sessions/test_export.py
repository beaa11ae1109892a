"""An export says all that was said, and what each answer cost."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import jsonschema
import msgspec
import pytest
from markdown_it import MarkdownIt

from app.errors import CommandError
from app.sessions import export
from app.sessions.export.json import Export
from app.sessions.recorder import Recorder
from app.sessions.session import Session
from app.sessions.store import Store
from engine.protocol import Answer, Delta, Failed, Finished, ModelSpec


@pytest.fixture
def session(make_answer: Callable[..., Answer]) -> Session:
    """A question with two answers, one of them retried, and a question whose answer broke off."""
    recorder = Recorder.create()
    recorder.user_turn("Prove it\n# not a heading")
    first = recorder.answer_turn(recorder.request(ModelSpec()))
    recorder.event(first, Finished(answer=make_answer("first answer")))
    recorder.go(first.parent)
    second = recorder.answer_turn(recorder.request(ModelSpec()))
    thinking = "</details>\n````\nstill thinking"
    recorder.event(second, Finished(answer=make_answer("```python\nprint(1)", thinking, finish="length")))
    recorder.user_turn("And then?")
    third = recorder.answer_turn(recorder.request(ModelSpec()))
    recorder.event(third, Delta(candidate="0", phase="answer", text="Then", tokens=1))
    recorder.event(third, Failed(code="engine", message="the engine went away"))
    assert recorder.session is not None
    return Store().read(recorder.session.id)


def test_the_json_export_is_valid_by_its_schema_and_has_every_turn_with_its_receipt(session: Session) -> None:
    written = json.loads(export.render(session, "json"))
    jsonschema.validate(written, msgspec.json.schema(Export))
    assert [turn["content"] for turn in written["turns"]] == [turn.content for turn in session.tree]
    assert [turn["parent"] for turn in written["turns"]] == [None, "t1", "t1", "t3", "t4"]
    assert written["turns"][1]["answer"]["receipt"]["schema"] == "mull.receipt/1"
    assert written["session"]["latest"] == "t5"
    read_back = msgspec.json.decode(export.render(session, "json"), type=Export)
    assert read_back.turns == tuple(session.tree)


def test_the_markdown_export_has_the_latest_path_with_thinking_and_receipt(session: Session) -> None:
    text = export.render(session, "md")
    assert "> Prove it\n> # not a heading" in text
    assert "first answer" not in text
    line = "2/2 ◂▸ · think 1,240 + ans 310 tok · 17.9s · ttft 0.3s · 86.6 t/s · 23 TFLOP ◐ · energy n/a"
    assert f"*{line} · cut at the token limit*" in text
    assert "| compute | 23 TFLOP | ◐ | formula \\| counts |" in text
    assert "| energy | n/a |  | no energy counter |" in text
    assert "Then\n\n*(failed: the engine went away)*" in text


def test_an_open_fence_and_html_in_the_text_do_not_swallow_what_follows(session: Session) -> None:
    tokens = MarkdownIt("commonmark").parse(export.render(session, "md"))
    fences = [token.content for token in tokens if token.type == "fence"]
    assert fences == ["</details>\n````\nstill thinking\n", "print(1)\n"]
    headings = [
        after.content
        for token, after in pairwise(tokens)
        if token.type == "heading_open" and token.level == 0
    ]
    assert headings == ["Prove it # not a heading", "You", "tiny", "You", "tiny"]


def test_an_export_replaces_a_file_only_when_told_to(tmp_path: Path) -> None:
    path = tmp_path / "out.md"
    export.write("one", path)
    with pytest.raises(CommandError, match="is there already; replace it with --force"):
        export.write("two", path)
    assert path.read_text() == "one"
    export.write("two", path, force=True)
    assert path.read_text() == "two"
    assert list(tmp_path.iterdir()) == [path]


def test_an_export_that_fails_leaves_the_old_file_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.md"
    export.write("one", path)

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(CommandError, match=r"cannot write .*: no space left on device"):
        export.write("two", path, force=True)
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


def test_an_export_goes_through_a_link_and_refuses_a_folder(tmp_path: Path) -> None:
    target = tmp_path / "target.md"
    target.write_text("old")
    (tmp_path / "link.md").symlink_to(target)
    export.write("new", tmp_path / "link.md", force=True)
    assert target.read_text() == "new" and (tmp_path / "link.md").is_symlink()
    with pytest.raises(CommandError, match="is a folder"):
        export.write("x", tmp_path, force=True)
    with pytest.raises(CommandError, match="no such file or directory"):
        export.write("x", tmp_path / "nowhere" / "x.md")
    export.write("x", Path("/dev/null"))
    assert Path("/dev/null").is_char_device()
