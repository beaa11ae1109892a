"""Things put in order and things followed through statements: ranks, heights, coins, who tells the truth."""

import random

from engine.tasks.families.wording import Phrases, Wording, draw_names
from engine.tasks.problem import Pen, Problem, Trace

_ORDINALS = ("", "second ", "third ")
_COMPARISONS = (
    ("taller", "tallest", "shortest"),
    ("older", "oldest", "youngest"),
    ("faster", "fastest", "slowest"),
    ("richer", "richest", "poorest"),
)
_SIDES = ("tails", "heads")
_RANKED = Phrases(
    (
        "What is the {name} of {listed}?",
        "Which is the {name} of {listed}?",
        "Find the {name} of {listed}.",
        "{listed}: which number is the {name}?",
        "Of {listed}, which is the {name}?",
        "Here are some numbers: {listed}. Find the {name}.",
        "Which number is the {name} in {listed}?",
        "Look at {listed}. Which is the {name}?",
        "Give the {name} of these: {listed}.",
        "Among {listed}, find the {name}.",
        "I have {listed}. Say which one is the {name}.",
        "Choose the {name} from {listed}.",
        "The {name} of {listed}?",
    ),
    (
        "Tell me the {name} number among {listed}.",
        "Take {listed}. What is the {name}?",
        "Pick the {name} of {listed}.",
    ),
)


def rank(rng: random.Random, level: int, wording: Wording) -> Problem:
    """The largest or smallest, second or third, of `level` numbers below 100.

    A pass writes the best so far after every number, then the numbers left.
    """
    numbers = rng.sample(range(1, 100), level)
    place, largest = rng.randrange(min(3, level - 1)), rng.random() < 0.5
    pick = max if largest else min

    def solver(pen: Pen) -> Trace:
        left = list(numbers)
        lines: list[str] = []
        for turn in range(place + 1):
            chosen = pen.write(len(lines), pick(left), left)
            best = [pick(left[: i + 1]) for i in range(len(left))]
            lines.append(f"best {' '.join(map(str, best[:-1]))}: {chosen}")
            left.remove(chosen)
            if turn < place:
                lines.append(f"left {' '.join(map(str, left))}")
        return Trace(tuple(lines), str(chosen))

    name = _ORDINALS[place] + ("largest" if largest else "smallest")
    question = _RANKED.draw(rng, wording).format(name=name, listed=", ".join(map(str, numbers)))
    key = f"{name} {sorted(numbers)}"
    return Problem("rank", level, question, key, solver, tuple(range(0, 2 * place + 1, 2)))


_WHO = Phrases(
    (
        "Who is the {}?",
        "Which of them is the {}?",
        "Name the {}.",
        "So who is the {}?",
        "Who of them is the {}?",
        "Say who is the {}.",
        "The {}, who is it?",
        "Find the {}.",
    ),
    ("Tell me who is the {}.", "The {} is who?"),
)


def order(rng: random.Random, level: int, wording: Wording) -> Problem:
    """`level` people compared in pairs, in any order; one place in the line is asked for.

    The thought notes each pair both ways; then it looks up who comes after, from the first pair on, then who
    comes before, and writes the line with its places.
    """
    line = draw_names(rng, level)
    comparative, first, last = rng.choice(_COMPARISONS)
    place = rng.choice([0, level - 1, *range(1, min(3, level - 1))])
    name = last if place == level - 1 else _ORDINALS[place] + first
    told = list(range(level - 1))
    rng.shuffle(told)

    def solver(pen: Pen) -> Trace:
        begin = told[0]
        lines = [f"{line[i]} > {line[i + 1]} < {line[i]}" for i in told]
        lines += [f"{line[i]} > {line[i + 1]}" for i in range(begin + 1, level - 1)]
        lines += [f"{line[-1]} > none"]
        lines += [f"{line[i]} < {line[i - 1]}" for i in range(begin, 0, -1)]
        lines += [f"{line[0]} < none"]
        swapped = [[*line[:i], line[i + 1], line[i], *line[i + 2 :]] for i in range(level - 1)]
        found = pen.write(len(lines), line, swapped)
        lines += [" ".join(f"{i} {who}" for i, who in enumerate(found, 1)), f"{name} {found[place]}"]
        return Trace(tuple(lines), found[place])

    pairs = [f"{line[i]} is {comparative} than {line[i + 1]}." for i in told]
    question = " ".join(pairs) + " " + _WHO.draw(rng, wording).format(name)
    return Problem("order", level, question, f"{line} {place} {told}", solver, (2 * level - 1,))


_COIN_BEGINS = Phrases(
    (
        "A coin shows {}.",
        "A coin is lying with {} up.",
        "There is a coin that shows {}.",
        "A coin has {} up.",
        "On the table a coin shows {}.",
        "I put down a coin with {} up.",
    ),
    ("You see a coin with {} up.", "Take a coin showing {}."),
)
_FLIPS = Phrases(
    (
        "{} flips it.",
        "{} flips the coin.",
        "{} turns it over.",
        "Then {} flips it.",
        "{} flips this coin.",
        "{} now turns it over.",
    ),
    ("{} flips it over.", "{} turns the coin."),
)
_LEAVES = Phrases(
    (
        "{} does not flip it.",
        "{} does not flip the coin.",
        "{} leaves it.",
        "{} does not touch it.",
        "{} leaves the coin alone.",
        "Then {} leaves it.",
        "{} leaves it alone.",
    ),
    ("{} does not turn it.", "{} leaves the coin as it is."),
)
_COIN_ASKED = Phrases(
    (
        "What does it show?",
        "Which side is up now?",
        "Is it heads or tails?",
        "What side does the coin show?",
        "Which side do you see?",
        "Heads or tails?",
        "What is up in the end?",
    ),
    ("What do we see now?", "Tell me the side that is up."),
)


def coin(rng: random.Random, level: int, wording: Wording) -> Problem:
    """A coin that `level` people flip or leave as it is."""
    start, people = rng.randrange(2), draw_names(rng, level)
    flips = [int(rng.random() < 0.6) for _ in people]

    def solver(pen: Pen) -> Trace:
        side, lines = start, []
        for step, (person, flip) in enumerate(zip(people, flips, strict=True)):
            side = pen.write(step, side ^ flip, (0, 1))
            lines.append(f"{person} {'flips' if flip else 'no'} {_SIDES[side]}")
        return Trace(tuple(lines), _SIDES[side])

    told = [
        (_FLIPS if flip else _LEAVES).draw(rng, wording).format(person)
        for person, flip in zip(people, flips, strict=True)
    ]
    begins = _COIN_BEGINS.draw(rng, wording).format(_SIDES[start])
    question = f"{begins} {' '.join(told)} {_COIN_ASKED.draw(rng, wording)}"
    return Problem("coin", level, question, f"{start} {flips} {people}", solver, tuple(range(level)))


_TRUTH = ("lies", "truth")
_HONEST_FIRST = Phrases(
    (
        "{} tells the truth.",
        "{} always tells the truth.",
        "{} is honest.",
        "{} does not lie.",
        "{} is never wrong.",
        "{} only says what is true.",
    ),
    ("{} never lies.",),
)
_LYING_FIRST = Phrases(
    (
        "{} lies.",
        "{} always lies.",
        "{} is a liar.",
        "{} does not tell the truth.",
        "{} is never right.",
        "{} never says what is true.",
    ),
    ("{} never tells the truth.",),
)
_CLAIMS = Phrases(
    (
        "{} says {} {}.",
        "{} says that {} {}.",
        "{} claims that {} {}.",
        "{} thinks that {} {}.",
        "{} told me that {} {}.",
        "{} claims {} {}.",
        "{} tells you that {} {}.",
        "{} shows us that {} {}.",
        "{} {verb}s that {} {}.",
        "{} {verb}s us that {} {}.",
        "{} {verb}s {} {}.",
    ),
    ("{} tells us that {} {}.",),
)
_TRUTH_ASKED = Phrases(
    (
        "Does {} tell the truth?",
        "Is {} honest?",
        "Does {} tell the truth, yes or no?",
        "Is {} honest, yes or no?",
        "Should we believe {}?",
        "Say if {} is honest.",
        "Is it so that {} tells the truth?",
    ),
    ("Can we trust {}?", "Is it true that {} is honest?"),
)


def truth(rng: random.Random, level: int, wording: Wording) -> Problem:
    """`level` people who always lie or never do; each but the first speaks of one before.

    What is known stands behind an equals sign, what is only said does not.
    """
    people = draw_names(rng, level)
    honest_first = rng.randrange(2)
    spoken_of = [i - 1 if rng.random() < 0.7 else rng.randrange(i) for i in range(1, level)]
    claims = [rng.randrange(2) for _ in spoken_of]

    def solver(pen: Pen) -> Trace:
        honest = [honest_first]
        lines = [f"{people[0]}={_TRUTH[honest_first]}"]
        for i, (other, claim) in enumerate(zip(spoken_of, claims, strict=True), start=1):
            honest.append(pen.write(i, int(honest[other] == claim), (0, 1)))
            about = people[other]
            lines.append(
                f"{people[i]} says {about} {_TRUTH[claim]}, {about}={_TRUTH[honest[other]]}: "
                f"{people[i]}={_TRUTH[honest[i]]}"
            )
        return Trace(tuple(lines), "yes" if honest[-1] else "no")

    told = [(_HONEST_FIRST if honest_first else _LYING_FIRST).draw(rng, wording).format(people[0])]
    for i, (other, claim) in enumerate(zip(spoken_of, claims, strict=True), start=1):
        claimed = "tells the truth" if claim else "lies"
        told.append(_CLAIMS.draw(rng, wording).format(people[i], people[other], claimed))
    question = " ".join(told) + " " + _TRUTH_ASKED.draw(rng, wording).format(people[-1])
    key = f"truth {honest_first} {spoken_of} {claims} {people}"
    return Problem("truth", level, question, key, solver, tuple(range(1, level)))
