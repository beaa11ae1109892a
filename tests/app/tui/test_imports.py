"""What is imported before the first paint."""

import subprocess
import sys


def test_the_app_is_imported_without_the_engines_libraries_and_without_what_only_answers_need() -> None:
    heavy = [
        "torch",
        "transformers",
        "safetensors",
        "numpy",
        "textual.widgets._markdown",
        "app.sessions.recorder",
    ]
    code = f"import sys, app.tui.app; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
