"""Seconds to the first token of `mull ask`, cold and warm: python tests/benchmarks/first_token.py [--runs N].

Cold starts an engine; beside it, in alternation, a bare import of torch and the model class. Warm attaches.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "support"))
from cli import Home

BARE = "import torch; from transformers import Qwen3ForCausalLM"
ASK = ("ask", "--think", "off", "What is 48 + 26?")


def bare() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", BARE], check=True)
    return time.perf_counter() - began


def first_byte(home: Home) -> float:
    began = time.perf_counter()
    process = home.start(*ASK)
    assert process.stdout is not None
    process.stdout.read(1)
    seconds = time.perf_counter() - began
    process.communicate(timeout=60)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        try:
            bare()
            first_byte(home)
            cold, imports, warm = [], [], []
            for _ in range(runs):
                home.run("stop")
                cold.append(first_byte(home))
                warm.append(first_byte(home))
                imports.append(bare())
        finally:
            home.close()
    beyond = statistics.median(a - b for a, b in zip(cold, imports, strict=True))
    print(f"bare import       {statistics.median(imports):.2f} s")
    print(f"cold first token  {statistics.median(cold):.2f} s, {beyond:.2f} s beyond the import of its pair")
    print(f"warm first token  {statistics.median(warm):.2f} s")


if __name__ == "__main__":
    main()
