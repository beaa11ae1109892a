"""The problems that a bench is over: of the bundled families, or of a file. Knows no model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal, get_args

from app.bench.task_lines import BadLine, read_line
from app.errors import CommandError, reason
from engine.tasks.problem import Problem
from engine.tasks.registry import FAMILIES, Tier, problem_set

Split = Literal["test", "calibration", "all"]
CALIBRATION_SHARE = 4
"""One problem in so many, by a hash of it, belongs to the calibration split and never to the test split."""
BUNDLED = "bundled"
MAX_LINE = 16 * 1024 * 1024


@dataclass(frozen=True)
class Item:
    """One problem: what is asked, and what is right."""

    prompt: str
    answer: str
    family: str
    digest: str
    """Names the problem: of prompt and right answer."""
    accepts: Callable[[str], bool]


@dataclass(frozen=True)
class Tasks:
    """The problems of a bench. `names` are the families where they are bundled, else the file's name."""

    name: str
    split: Split
    items: tuple[Item, ...]
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Names the problems, in their order."""
        return sha256("\n".join(item.digest for item in self.items).encode()).hexdigest()[:16]


def bundled(names: str, split: Split, count: int, seed: int) -> Tasks:
    """Held-out problems of families (all, or some after commas) or of tiers of difficulty.

    Raises CommandError for a name that is neither.
    """
    families, tiers = _chosen(names)
    share = -(-count // len(tiers))
    items: dict[str, Item] = {}
    for tier in tiers:
        for problem in _of_split(share, seed, split, families, tier):
            item = _item(problem, tier if len(tiers) > 1 else None)
            items.setdefault(item.digest, item)
    return Tasks(names, split, tuple(items.values())[:count])


def from_file(path: Path, split: Split, count: int | None) -> Tasks:
    """The problems of a JSON Lines file, the first `count` of them that are of the split.

    Raises CommandError, which names the line, where one cannot be read as a problem.
    """
    items: dict[str, Item] = {}
    repeated = 0
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(iter(lambda: lines.readline(MAX_LINE), b""), 1):
                if line.strip():
                    item = _read(path, number, line)
                    repeated += item.digest in items
                    items.setdefault(item.digest, item)
    except OSError as error:
        raise CommandError(f"cannot read {path}: {reason(error)}") from error
    if not items:
        raise CommandError(f"{path} holds no problem", "a problem is a line of JSON with prompt and answer")
    chosen = [item for item in items.values() if in_split(item.digest, split)]
    if not chosen:
        raise CommandError(f"{path} has no problem of the {split} split", "use more problems, or --split all")
    notes = (f"{repeated} repeated problems are left out",) if repeated else ()
    return Tasks(path.stem, split, tuple(chosen[:count]), notes)


def in_split(digest: str, split: Split) -> bool:
    """Whether a problem of this digest belongs to the split."""
    held = int.from_bytes(sha256(f"split {digest}".encode()).digest()[:8], "big") % CALIBRATION_SHARE == 0
    return split == "all" or held == (split == "calibration")


def _chosen(names: str) -> tuple[tuple[str, ...], tuple[Tier, ...]]:
    """Families and tiers that are meant; all families of the standard tier where none is named."""
    known: tuple[Tier, ...] = get_args(Tier)
    given = [name.strip() for name in names.split(",") if name.strip() not in ("", "all", BUNDLED)]
    for name in given:
        if name not in FAMILIES and name.replace("-", " ") not in known:
            raise CommandError(
                f"there are no tasks {name!r}",
                f"a JSON Lines file, or of {', '.join(FAMILIES)}; tiers: "
                + ", ".join(tier.replace(" ", "-") for tier in known),
                status=2,
            )
    tiers = tuple(tier for tier in known if tier.replace(" ", "-") in given or tier in given)
    return tuple(name for name in given if name in FAMILIES) or tuple(FAMILIES), tiers or known[:1]


def _of_split(count: int, seed: int, split: Split, families: Sequence[str], tier: Tier) -> list[Problem]:
    """`count` held-out problems of a split, the families in turn; a longer set begins like a shorter.

    A set is drawn that is larger by what belongs to other splits.
    """
    for drawn in (2 * count + 16, 8 * count + 64):
        try:
            problems = problem_set(drawn, seed, "test", families, tier)
        except (RuntimeError, IndexError):
            break
        by_family: dict[str, list[Problem]] = {problem.family: [] for problem in problems}
        for problem in problems:
            if in_split(problem.key, split):
                by_family[problem.family].append(problem)
        share = -(-count // len(by_family))
        if all(len(found) >= share for found in by_family.values()):
            in_turn = zip(*by_family.values(), strict=False)
            return [problem for one_of_each in in_turn for problem in one_of_each][:count]
    raise CommandError(
        f"there are fewer than {count} held-out problems of {', '.join(families)} ({tier}, {split} split)",
        "ask for fewer with --problems",
    )


def _item(problem: Problem, tier: str | None) -> Item:
    return Item(
        problem.question,
        problem.answer,
        f"{problem.family}, {tier}" if tier else problem.family,
        digest(problem.question, problem.answer),
        problem.accepts,
    )


def _read(path: Path, number: int, line: bytes) -> Item:
    try:
        if len(line) >= MAX_LINE:
            raise BadLine(f"is longer than {MAX_LINE // 2**20} MiB")
        task = read_line(line)
    except BadLine as error:
        raise CommandError(f"{path.name}, line {number}: {error}", error.hint) from None
    return Item(
        task.prompt, task.answers[0], task.family, digest(task.prompt, *task.answers, task.kind), task.accepts
    )


def digest(*parts: str) -> str:
    """A name for texts: 16 hexadecimal digits."""
    return sha256("\0".join(parts).encode(errors="surrogatepass")).hexdigest()[:16]
