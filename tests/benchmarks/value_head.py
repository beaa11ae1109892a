"""Whether a value head, trained on the bundled model's own roll-outs, tells right thoughts from wrong ones:

python tests/benchmarks/value_head.py [MODEL] [--train N] [--test N] [--seed S]. Thoughts are sampled at
T = 0.8 on hard problems; a logistic regression on the final hidden state at the end of each of their lines
learns whether they led to a right answer. On held-out problems it is compared with what costs nothing: the
mean log-probability, and whether the lines that can be computed are right (`engine.tasks.steps`).
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from engine.load.locate import locate
from engine.tasks.examinee import Examinee, Reply
from engine.tasks.problem import Problem
from engine.tasks.registry import Split, problem_set
from engine.tasks.steps import first_wrong_line

SAMPLES = 8
TEMPERATURE = 0.8
WEIGHT_DECAY = 1e-3
SHARPNESS = 40.0
"""A vote weighs exp(40 x mean log-probability), as in the bars."""


@dataclass(frozen=True)
class Rollout:
    """A sampled thought: which problem's, whether it led to a right answer, and what can be seen of it."""

    problem: int
    right: bool
    answer: str
    states: Tensor
    """[lines, hidden]: after each line."""
    logprob: float
    sound: bool


@torch.inference_mode()
def states(examinee: Examinee, question: str, reply: Reply) -> Tensor:
    prompt = examinee._prompt(question, thinking=True) + examinee._open
    newline = examinee._tokenize("\n")[-1]
    ids = torch.tensor([prompt + reply.thought])
    hidden = examinee.model.model(input_ids=ids).last_hidden_state[0]
    ends = [len(prompt) + at for at, token in enumerate(reply.thought) if token == newline]
    return hidden[ends or [len(prompt) - 1]]


def rollouts(examinee: Examinee, count: int, split: Split, seed: int) -> list[Rollout]:
    problems: list[Problem] = problem_set(count, seed, split, tier="hard")
    drawn = examinee.sample([p.question for p in problems], SAMPLES, TEMPERATURE, seed)
    return [
        Rollout(
            problem=number,
            right=reply.answer is not None and problem.accepts(reply.answer),
            answer=reply.answer or "",
            states=states(examinee, problem.question, reply),
            logprob=reply.mean_logprob,
            sound=first_wrong_line(examinee.text_of(reply.thought)) is None,
        )
        for number, (problem, replies) in enumerate(zip(problems, drawn, strict=True))
        for reply in replies
    ]


@dataclass(frozen=True)
class Head:
    """A logistic regression over standardized hidden states."""

    mean: Tensor
    spread: Tensor
    weight: Tensor
    bias: Tensor

    def __call__(self, hidden: Tensor) -> Tensor:
        return ((hidden - self.mean) / self.spread) @ self.weight + self.bias


def fit(found: list[Rollout]) -> Head:
    inputs = torch.cat([one.states for one in found])
    wanted = torch.cat([torch.full((len(one.states),), float(one.right)) for one in found])
    each = torch.cat([torch.full((len(one.states),), 1 / len(one.states)) for one in found])
    mean, spread = inputs.mean(0), inputs.std(0).clamp_min(1e-6)
    inputs = (inputs - mean) / spread
    weight, bias = torch.zeros(inputs.shape[1], requires_grad=True), torch.zeros((), requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = functional.binary_cross_entropy_with_logits(inputs @ weight + bias, wanted, each)
        loss = loss + WEIGHT_DECAY * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return Head(mean, spread, weight.detach(), bias.detach())


def area(scores: list[float], right: list[bool]) -> float:
    """Under the ROC curve: how often a right one scores higher than a wrong one."""
    pairs = [(a > b) + (a == b) / 2 for a, x in zip(scores, right, strict=True) if x
             for b, y in zip(scores, right, strict=True) if not y]  # fmt: skip
    return sum(pairs) / len(pairs)


def within(found: list[Rollout], scores: list[float]) -> float:
    """The same among thoughts to one question: what choosing among candidates needs."""
    pairs = []
    for first in range(0, len(found), SAMPLES):
        of_one = range(first, first + SAMPLES)
        pairs += [
            (scores[a] > scores[b]) + (scores[a] == scores[b]) / 2
            for a in of_one if found[a].right for b in of_one if not found[b].right
        ]  # fmt: skip
    return sum(pairs) / len(pairs)


def chosen(found: list[Rollout], weights: list[float]) -> float:
    """The share of questions whose heaviest answer is right."""
    hits = []
    for first in range(0, len(found), SAMPLES):
        votes: dict[str, float] = {}
        for one, weight in zip(found[first : first + SAMPLES], weights[first : first + SAMPLES], strict=True):
            votes[one.answer] = votes.get(one.answer, 0.0) + weight
        best = max(votes, key=votes.__getitem__)
        hits.append(next(one.right for one in found[first : first + SAMPLES] if one.answer == best))
    return sum(hits) / len(hits)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="tiny")
    parser.add_argument("--train", type=int, default=540)
    parser.add_argument("--test", type=int, default=216)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    examinee = Examinee.load(locate(options.model))
    head = fit(rollouts(examinee, options.train, "train", options.seed))
    found = rollouts(examinee, options.test, "test", options.seed)
    right = [one.right for one in found]
    value = [float(head(one.states[-1])) for one in found]
    lowest = [float(head(one.states).min()) for one in found]
    logprob = [one.logprob for one in found]
    sound = [one.logprob - 10 * (not one.sound) for one in found]
    ways = {
        "value head, at the end": value,
        "value head, lowest": lowest,
        "mean log-probability": logprob,
        "lines computed, then log-probability": sound,
        "the same and the value head": [a + 0.1 * b for a, b in zip(sound, value, strict=True)],
    }
    print(
        f"{len(found)} thoughts to {options.test} held-out hard problems, {sum(right) / len(right):.3f} right"
    )
    for name, scores in ways.items():
        of_one = within(found, scores)
        print(f"{name:38s} AUC {area(scores, right):.3f}, among thoughts to one question {of_one:.3f}")
    sharp = torch.tensor(sound).mul(SHARPNESS).exp().tolist()
    votes = {
        "single": None,
        "votes weighed by log-probability": torch.tensor(logprob).mul(SHARPNESS).exp().tolist(),
        "by the value head": torch.tensor(value).sigmoid().tolist(),
        "by lines and log-probability": sharp,
        "by lines, log-probability and value head": (
            torch.tensor(sharp) * torch.tensor(value).sigmoid()
        ).tolist(),
    }
    for name, weights in votes.items():
        accuracy = sum(right) / len(right) if weights is None else chosen(found, weights)
        print(f"{name:42s} {accuracy:.3f} right")


if __name__ == "__main__":
    main()
