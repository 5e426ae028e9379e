"""Two finished evaluations side by side: problems paired, differences with an interval and a permutation test.

A run of mode=train counts as the evaluation at its end: so that two trainings (from the SFT policy or from the base,
with a short first context or a long one) are compared in the same way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from conf.errors import UserError
from rl.checkpoint import read_json
from rl.evaluation import protocol
from rl.evaluation.results import outcome
from rl.evaluation.store import SAMPLES_FILE

Outcomes = dict[str, dict[str, list[float | None]]]  # suite, problem: the outcomes of its samples


def read_outcomes(folder: Path) -> Outcomes:
    """What an evaluation found. Raises UserError where the folder holds none, or one that has not finished."""
    path, trained, found = folder / SAMPLES_FILE, folder / "samples" / "after.parquet", {}
    if not path.is_file() and not trained.is_file():
        raise UserError(f"eval.compare: {folder} holds no {SAMPLES_FILE}: give the folders of two runs of mode=eval "
                        "(or of mode=train)")
    if (read_json(folder / "summary.json") or {"interrupted": True}).get("interrupted"):
        raise UserError(f"eval.compare: {folder} has not finished: go on with run.resume={folder} first")
    if not path.is_file():
        return {"heldout": _after_training(trained)}
    with path.open(encoding="utf-8") as lines:
        next(lines)
        for row in (row for line in lines for row in json.loads(line)["batch"]):
            found.setdefault(row["suite"], {}).setdefault(row["problem_id"], []).append((row["sample"], outcome(row)))
    return {suite: {name: [value for _, value in sorted(pairs, key=lambda pair: pair[0])]
                    for name, pairs in problems.items()} for suite, problems in found.items()}


def _after_training(path: Path) -> dict[str, list[float | None]]:
    import pyarrow.parquet as pq

    found: dict[str, list[float | None]] = {}
    for row in pq.read_table(path, columns=["problem_id", "status"]).to_pylist():
        found.setdefault(row["problem_id"], []).append(outcome(row))
    return found


def compared(first: Outcomes, second: Outcomes, seed: int = 0) -> dict[str, dict[str, Any]]:
    """One entry a suite that both have, and `overall`; only problems with a verdict in both count.

    Raises UserError where they have no problem in common.
    """
    pairs: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for suite in (name for name in first if name in second):
        common = [name for name in first[suite] if name in second[suite]]
        means = [(_mean(first[suite][name]), _mean(second[suite][name])) for name in common]
        known = [pair for pair in means if None not in pair]
        if known:
            a, b = np.array(known, float).T
            pairs[suite] = (a, b)
    if not pairs:
        raise UserError("eval.compare: the two evaluations have no judged problem in common: compare runs of the same "
                        "suites (and eval.seed)")
    if len(pairs) > 1:
        pairs["overall"] = tuple(np.concatenate([pair[side] for pair in pairs.values()]) for side in (0, 1))
    return {name: {"first": float(a.mean()), "second": float(b.mean()), **protocol.paired(a, b, seed)}
            for name, (a, b) in pairs.items()}


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def said(entry: Mapping[str, Any]) -> str:
    """The result in words."""
    if not entry["p"] < 0.05:
        return "no significant difference"
    return f"the second is {'better' if entry['difference'] > 0 else 'worse'} (p = {entry['p']:.2g})"
