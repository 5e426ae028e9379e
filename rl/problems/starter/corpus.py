"""What the starter's policy is fine-tuned on: worked solutions of the train split with slips in them.

Clean traces would leave reinforcement learning nothing to do, so every domain has a slip rate at which a good third
of the traces ends wrong. Sampling the tuned model then finds right and wrong answers to most problems.

    python -m rl.problems.starter.corpus        prints the share of right traces a domain
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from actors.prompts import plan_request, with_plan
from rl.problems.starter import FAMILIES, draw
from rl.problems.starter.slip import Slip

SLIP_RATES: Mapping[str, float] = {
    "math": 0.12,
    "code": 0.13,
    "science": 0.12,
    "logic": 0.071,
    "simulation": 0.16,
    "tabular": 0.11,
}
"""The probability that one step of a trace goes wrong. P(right trace) is then 0.55 to 0.7, less in the families that a
small model learns easily: with its own mistakes on top, sampling finds right and wrong answers to most problems."""

TURNS = ("math", "code", "logic", "tabular", "science", "logic", "simulation", "tabular")
"""The order in which domains take turns. To look a cell up in a table, or to put statements in an order, takes a small
model several times the examples that the other families take."""


@dataclass(frozen=True)
class Example:
    """Chat messages of which the last is the assistant's, the domain, and how many slips its trace has."""

    messages: tuple[Mapping[str, str], ...]
    domain: str
    slips: int


def sft_examples(
    seed: int,
    slip_rates: Mapping[str, float] = SLIP_RATES,
    plan_share: float = 0.1,
    plan_task_share: float = 0.06,
) -> Iterator[Example]:
    """Endless examples of the train split, the same for the same arguments; those of `slip_rates`' domains in TURNS.

    A share `plan_share` has the plan in the question, a share `plan_task_share` asks for the plan itself, the rest
    are plain questions.
    """
    rng = random.Random(f"sft/{seed}")
    while True:
        for domain in TURNS:
            if domain in slip_rates:
                yield _example(domain, rng, slip_rates[domain], plan_share, plan_task_share)


def p_right(domain: str, rate: float, count: int = 2000, seed: int = 0) -> float:
    """The share of traces that end with the right answer at a slip rate, by simulation.

    A trace is right when its answer is the clean trace's, which the tests check against independent oracles.
    """
    rng = random.Random(f"p_right/{seed}/{domain}")
    right = 0
    for _ in range(count):
        instance = FAMILIES[domain].generate(rng)
        clean = FAMILIES[domain].solve(instance, Slip.none())
        right += FAMILIES[domain].solve(instance, Slip(rng, rate)).answer == clean.answer
    return right / count


def tune(domain: str, target: float = 0.45, count: int = 4000) -> float:
    """The slip rate (two significant digits) at which the share of right traces is the target, by bisection."""
    low, high = 0.0, 0.6
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if p_right(domain, middle, count) > target else (low, middle)
    return float(f"{(low + high) / 2:.2g}")


def _example(domain: str, rng: random.Random, rate: float, plan_share: float, plan_task_share: float) -> Example:
    instance = draw(domain, rng, "train")
    slip = Slip(rng, rate)
    solution = FAMILIES[domain].solve(instance, slip)
    shape = rng.random()
    if shape < plan_task_share:
        return _dialogue(plan_request(instance.question), f"<plan>{solution.plan}</plan>", domain, 0)
    if shape < plan_task_share + plan_share:
        return _dialogue(with_plan(instance.question, solution.plan), solution.response, domain, slip.made)
    return _dialogue(instance.question, solution.response, domain, slip.made)


def _dialogue(user: str, assistant: str, domain: str, slips: int) -> Example:
    messages = ({"role": "user", "content": user}, {"role": "assistant", "content": assistant})
    return Example(messages, domain, slips)


def main() -> None:
    """Prints the table of slip rates."""
    print("domain      rate   P(right)")
    for domain, rate in SLIP_RATES.items():
        print(f"{domain:10s} {rate:6.3f} {p_right(domain, rate):8.3f}")


if __name__ == "__main__":
    main()
