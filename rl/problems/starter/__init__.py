"""The embedded problems of the starter: six small families, one a domain, for a policy of about a million parameters.

A problem belongs to the held-out split if and only if the hash of its question says so, so the splits can never
overlap, whatever the seeds.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, Literal

from conf.errors import UserError
from rl.problems.starter import code, logic, math, science, simulation, tabular
from rl.problems.starter.base import Instance
from rl.problems.starter.slip import Slip

FAMILIES: dict[str, ModuleType] = {
    "math": math,
    "code": code,
    "science": science,
    "logic": logic,
    "simulation": simulation,
    "tabular": tabular,
}

Split = Literal["train", "heldout"]

HELDOUT_EVERY = 8
MAX_DRAWS = 10_000


def is_heldout(question: str) -> bool:
    """Whether a question belongs to the held-out split: sha1 of its normalised text is 0 modulo 8."""
    normalised = " ".join(question.lower().split())
    return int.from_bytes(hashlib.sha1(normalised.encode()).digest()[-8:], "big") % HELDOUT_EVERY == 0


def draw(domain: str, rng: random.Random, split: Split) -> Instance:
    """The next instance of a domain that belongs to the split."""
    family = FAMILIES[domain]
    while True:
        instance = family.generate(rng)
        if is_heldout(instance.question) == (split == "heldout"):
            return instance


def make_row(domain: str, instance: Instance) -> dict[str, Any]:
    """An instance as a row of Guru's schema; `extra_info` has the family, the kind and a plan."""
    return {
        "data_source": instance.data_source,
        "prompt": [{"role": "user", "content": instance.question}],
        "ability": domain,
        "apply_chat_template": True,
        "reward_model": {"style": "rule", "ground_truth": instance.ground_truth},
        "extra_info": {
            "family": domain,
            "kind": instance.kind,
            "plan": FAMILIES[domain].solve(instance, Slip.none()).plan,
        },
    }


def make_problem(domain: str, rng: random.Random) -> dict[str, Any]:
    """One row of a domain, of either split."""
    return make_row(domain, FAMILIES[domain].generate(rng))


def problems(split: Split, seed: int, count: int, domains: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """`count` rows of a split, the domains in turn, no prompt twice; the same arguments give the same rows.

    Every domain has its own random stream, so leaving one out does not change the others.
    Raises UserError for an unknown domain or split, or when a domain has no new question left.
    """
    chosen = _check(split, domains)
    streams = {domain: random.Random(f"{split}/{seed}/{domain}") for domain in chosen}
    seen: set[str] = set()
    for index in range(count):
        domain = chosen[index % len(chosen)]
        instance = _draw_new(domain, streams[domain], split, seen)
        seen.add(instance.question)
        yield make_row(domain, instance)


def _check(split: str, domains: Sequence[str] | None) -> list[str]:
    if split not in ("train", "heldout"):
        raise UserError(f"the starter's split {split!r} is not known: use train or heldout")
    chosen = list(domains or FAMILIES)
    for domain in chosen:
        if domain not in FAMILIES:
            raise UserError(f"the starter has no domain {domain!r}: choose from {', '.join(FAMILIES)}")
    return chosen


def _draw_new(domain: str, rng: random.Random, split: Split, seen: set[str]) -> Instance:
    for _ in range(MAX_DRAWS):
        instance = draw(domain, rng, split)
        if instance.question not in seen:
            return instance
    raise UserError(f"the starter's domain {domain} has no new {split} question left after {len(seen)}: ask for fewer")
