"""Our checkers as a reward function that a peer can call: `benchmarks.peers.rewards:score`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from actors.checkers import check
from actors.messages import Problem


def answer_of(problem: Problem) -> dict[str, Any]:
    """What `score` needs of a problem, as JSON."""
    return {
        "id": problem.id,
        "messages": [dict(m) for m in problem.messages],
        "data_source": problem.data_source,
        "domain": problem.domain,
        "ground_truth": problem.ground_truth,
    }


def score(texts: Sequence[str], answers: Sequence[dict[str, Any]]) -> list[float]:
    """The checkers' scores, in [0, 1]; raises RuntimeError on a verifier error, which must not look like a score."""
    scores = []
    for text, answer in zip(texts, answers, strict=True):
        verdict = check(Problem(**{**answer, "messages": tuple(answer["messages"])}), text)
        if verdict.status == "error":
            raise RuntimeError(f"verifier error on {answer['id']}: {verdict.reason}")
        scores.append(verdict.score)
    return scores
