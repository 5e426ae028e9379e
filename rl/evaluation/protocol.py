"""The arithmetic of an evaluation: pure, on outcomes that are known already.

`Outcomes` of a problem are its scores in the order of its samples; sample j belongs to run j, so 16 samples are 16
independent runs. None stands for a sample without a verdict: it is left out, and never a zero.

A score is the mean over problems of each problem's mean; with every verdict there that is also the mean of the runs'
pass@1. Intervals resample problems, not samples (the samples of one problem are not independent), and keep
their promise with few problems (`interval`). Comparisons pair the problems of two evaluations.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import NormalDist

import numpy as np

Outcomes = Sequence[float | None]
BOOTSTRAP = 2000
MIN_ERROR = 0.05  # smallest standard error of a resample, as a share of the real one
FLIPS = 10_000  # random sign flips of a permutation test; up to 2^EXACT_FLIPS are all gone through
EXACT_FLIPS = 13
DRAWS = 400  # random subsets over which maj@k is averaged where k < n


def pass_at_k(n: int, correct: int, k: int) -> float:
    """The unbiased estimate of pass@k from n samples: 1 - C(n-c, k) / C(n, k) (Chen et al., arXiv 2107.03374, eq. 1).

    Raises ValueError where k > n, since it cannot be estimated then.
    """
    if not 0 < k <= n or not 0 <= correct <= n:
        raise ValueError(f"pass@{k} needs at least {k} samples, and 0 <= correct={correct} <= n={n}")
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def best_at_k(scores: Sequence[float], k: int) -> float:
    """The mean over all k-subsets of their highest score, exactly: sum of s_(i) C(i-1, k-1) / C(n, k), s ascending.

    Of scores 0 and 1 this is pass@k. Raises ValueError where k > n.
    """
    n = len(scores)
    if not 0 < k <= n:
        raise ValueError(f"best@{k} needs at least {k} samples, not {n}")
    ways = math.comb(n, k)
    return sum(score * math.comb(rank, k - 1) / ways for rank, score in enumerate(sorted(scores)))


def majority_at_k(answers: Sequence[str | None], scores: Sequence[float], k: int, seed: int = 0) -> float:
    """The mean score of the answer that most of k samples give; of answers level at the top, the mean.

    `answers` are spelled alike where they are equal, None where a sample states none (it has no vote; where nobody
    votes, the score is 0). Exact for k = n, else the mean over DRAWS random subsets. Raises ValueError where k > n.
    """
    n = len(answers)
    if not 0 < k <= n:
        raise ValueError(f"maj@{k} needs at least {k} samples, not {n}")
    if k == n:
        return _majority(answers, scores)
    rng = np.random.default_rng(seed)
    drawn = (rng.permutation(n)[:k] for _ in range(DRAWS))
    return float(np.mean([_majority([answers[i] for i in d], [scores[i] for i in d]) for d in drawn]))


def _majority(answers: Sequence[str | None], scores: Sequence[float]) -> float:
    votes = Counter(answer for answer in answers if answer is not None)
    if not votes:
        return 0.0
    most = max(votes.values())
    means = [np.mean([s for a, s in zip(answers, scores, strict=True) if a == leader])
             for leader, count in votes.items() if count == most]
    return float(np.mean(means))


# --- means and intervals --------------------------------------------------------------------------------------------


def problem_means(problems: Sequence[Outcomes]) -> np.ndarray:
    """float64 [problems that have a verdict]: the mean outcome of each."""
    means = [np.mean(known) for p in problems if (known := [o for o in p if o is not None])]
    return np.array(means, float)


def run_scores(problems: Sequence[Outcomes]) -> list[float]:
    """The mean outcome of each run over the problems; runs without any verdict are left out."""
    width = max((len(p) for p in problems), default=0)
    runs = ([p[j] for p in problems if j < len(p) and p[j] is not None] for j in range(width))
    return [float(np.mean(run)) for run in runs if run]


def spread(runs: Sequence[float]) -> float:
    """The standard deviation of the runs' scores (n - 1 in the denominator); 0 for a single run."""
    return float(np.std(runs, ddof=1)) if len(runs) > 1 else 0.0


def interval(strata: Sequence[np.ndarray], level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Bootstrap interval of the mean over all problems of all strata; each stratum (suite) is resampled by itself.

    The studentised bootstrap (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 12.5): what is
    resampled is the deviation in units of its own standard error, so that few problems, or scores near 0 or 1, do
    not make the interval too narrow as plain percentiles do (simulated, 30 problems of mean 0.09: 95 of 100 intervals
    hold the truth, of plain percentiles 91). It is kept within Wilson's interval of as many yes/no problems, which no
    outcomes in [0, 1] can vary more than: with a handful of problems the bootstrap runs wild. Where every problem has
    the same outcome, 0 or 1, there is nothing to resample: then the bound that n such problems alone give
    ((1-level)/2 = (1-p)^n). (nan, nan) without problems.
    """
    strata = [np.asarray(s, float) for s in strata if len(s)]
    n = sum(map(len, strata))
    if not n:
        return math.nan, math.nan
    mean, error = _mean_and_error([s[None, :] for s in strata], n)
    value, tail = float(mean[0]), (1 - level) / 2
    if not error[0]:
        beyond = 1 - tail ** (1 / n)
        return (value - beyond if value == 1 else value), (value + beyond if value == 0 else value)
    rng = np.random.default_rng(seed)
    resampled = [s[rng.integers(0, len(s), (BOOTSTRAP, len(s)))] for s in strata]
    means, errors = _mean_and_error(resampled, n)
    # a resample of equal outcomes has no error of its own: it may not count for infinitely many
    deviations = (means - value) / np.maximum(errors, MIN_ERROR * error[0])
    below, above = np.percentile(deviations, [100 * tail, 100 * (1 - tail)])
    low, high = _wilson(value, n, tail)
    return max(value - float(above * error[0]), low), min(value - float(below * error[0]), high)


def _wilson(mean: float, n: int, tail: float) -> tuple[float, float]:
    """Wilson's score interval of n yes/no problems."""
    z2 = NormalDist().inv_cdf(tail) ** 2
    middle = (mean + z2 / (2 * n)) / (1 + z2 / n)
    reach = math.sqrt(z2 * (mean * (1 - mean) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return middle - reach, middle + reach


def _mean_and_error(strata: Sequence[np.ndarray], n: int) -> tuple[np.ndarray, np.ndarray]:
    """Of [draws, problems] each: the mean over all n problems and its standard error, [draws] each."""
    total = sum(s.sum(axis=1) for s in strata)
    variance = sum(s.shape[1] * s.var(axis=1, ddof=1) for s in strata if s.shape[1] > 1)
    return total / n, np.sqrt(variance + np.zeros(len(total))) / n


def micro_average(suites: Mapping[str, np.ndarray]) -> float:
    """The mean over all problems of several suites: each suite counts as its number of problems."""
    return float(np.mean(np.concatenate([*suites.values()])))


# --- two evaluations ------------------------------------------------------------------------------------------------


def paired(first: np.ndarray, second: np.ndarray, seed: int = 0) -> dict[str, float]:
    """How much better `second` is than `first`, float64 [problems] each, the same problems in the same order.

    `difference` of the means, its 95 % bootstrap interval `low` to `high` over problems, and the two-sided `p` of a
    permutation test: the share of sign flips of the problems' differences that give as large a mean.
    """
    differences = np.asarray(second, float) - np.asarray(first, float)
    n = len(differences)
    if not n:
        return {"problems": 0, "difference": math.nan, "low": math.nan, "high": math.nan, "p": math.nan}
    # the interval's scale is [0, 1]: a difference of 0 lies in its middle
    low, high = interval([(differences + 1) / 2], seed=seed) if np.ptp(differences) else (None, None)
    mean = float(differences.mean())
    return {
        "problems": n,
        "difference": mean,
        "low": mean if low is None else 2 * low - 1,
        "high": mean if high is None else 2 * high - 1,
        "p": _flip_test(differences, seed),
    }


def _flip_test(differences: np.ndarray, seed: int) -> float:
    moved = differences[differences != 0]
    if not len(moved):
        return 1.0
    observed = abs(moved.sum()) - 1e-12
    if len(moved) <= EXACT_FLIPS:
        bits = np.arange(2 ** len(moved))[:, None] >> np.arange(len(moved)) & 1
        return float((abs((1 - 2 * bits) @ moved) >= observed).mean())
    rng = np.random.default_rng(seed)
    signs = 1 - 2 * rng.integers(0, 2, (FLIPS, len(moved)), dtype=np.int8)
    return float(((abs(signs @ moved) >= observed).sum() + 1) / (FLIPS + 1))
