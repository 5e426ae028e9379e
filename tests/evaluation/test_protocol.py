"""The arithmetic of scores against closed forms and simulations whose truth is known."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest

from rl.evaluation import protocol
from rl.evaluation.protocol import best_at_k, interval, majority_at_k, paired, pass_at_k, run_scores, spread

# --- pass@k, best@k, maj@k ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n,k", [(16, 1), (16, 8), (7, 3)])
def test_pass_at_k_averages_to_the_closed_form_on_simulated_outcomes(n, k):
    """Of a problem that is solved with probability p, pass@k is 1 - (1-p)^k."""
    rng, p = np.random.default_rng(k), 0.23
    estimates = [pass_at_k(n, int(rng.binomial(n, p)), k) for _ in range(20_000)]
    error = np.std(estimates) / math.sqrt(len(estimates))
    assert abs(np.mean(estimates) - (1 - (1 - p) ** k)) < 4 * error


@pytest.mark.parametrize("scores,k", [([0.2, 1.0, 0.5], 2), ([0, 0, 1, 0.3, 0.3], 3), ([0.7], 1)])
def test_best_at_k_is_the_mean_of_the_best_over_all_subsets(scores, k):
    expected = np.mean([max(chosen) for chosen in itertools.combinations(scores, k)])
    assert best_at_k(scores, k) == pytest.approx(expected)


@pytest.mark.parametrize("right", range(6))
def test_best_of_zeros_and_ones_is_pass_at_k(right):
    outcomes = [1] * right + [0] * (5 - right)
    assert best_at_k(outcomes, 3) == pytest.approx(pass_at_k(5, right, 3))


def test_a_majority_by_hand():
    assert majority_at_k(["7", "7", "8"], [1, 1, 0], 3) == 1.0
    assert majority_at_k(["7", "8", "8"], [1, 0, 0], 3) == 0.0
    assert majority_at_k(["7", "8"], [1, 0], 2) == 0.5  # level: either may be taken
    assert majority_at_k([None, None, "8"], [0, 0, 1], 3) == 1.0  # who states nothing has no vote
    assert majority_at_k([None, None], [0, 0], 2) == 0.0


def test_a_majority_of_fewer_is_the_mean_over_subsets():
    answers, scores = ["7", "7", "7", "8", "9"], [1, 1, 1, 0, 0]
    exact = np.mean([majority_at_k([answers[i] for i in c], [scores[i] for i in c], 3)
                     for c in itertools.combinations(range(5), 3)])
    assert majority_at_k(answers, scores, 3) == pytest.approx(exact, abs=0.08)
    assert majority_at_k(answers, scores, 3, seed=5) == majority_at_k(answers, scores, 3, seed=5)


@pytest.mark.parametrize("estimate", [lambda: best_at_k([1.0], 2), lambda: majority_at_k(["a"], [1.0], 2)])
def test_more_tries_than_samples_are_refused(estimate):
    with pytest.raises(ValueError, match="needs at least 2 samples"):
        estimate()


# --- runs and intervals -------------------------------------------------------------------------------------------


def test_runs_by_hand_and_errors_are_no_zeros():
    problems = [[1, 0, None], [1, 1, 1], [0, None, None]]
    assert run_scores(problems) == [pytest.approx(2 / 3), 0.5, 1.0]
    assert list(protocol.problem_means(problems)) == [0.5, 1.0, 0.0]
    assert spread([0.5, 0.7]) == pytest.approx(0.1 * math.sqrt(2)) and spread([0.5]) == 0.0
    assert list(protocol.problem_means([[None, None]])) == []


@pytest.mark.parametrize("problems,shape", [
    (30, (1, 1)), (30, (0.3, 3)), (15, (3, 0.3)), (96, (2, 6)), (8, (0.1, 0.1)),
])
def test_sixteen_runs_and_their_interval_cover_the_truth(problems, shape):
    """1,000 evaluations of problems drawn from a population whose mean is known, also where that is near 0 or 1."""
    rng, truth, covered, means = np.random.default_rng(3), shape[0] / sum(shape), 0, []
    for simulation in range(1000):
        outcomes = rng.binomial(16, rng.beta(*shape, problems)) / 16
        low, high = interval([outcomes], seed=simulation)
        covered += low <= truth <= high
        means.append(outcomes.mean())
    assert covered >= 930
    assert abs(np.mean(means) - truth) < 4 * np.std(means) / math.sqrt(1000)


def test_intervals_of_suites_of_unequal_difficulty_are_stratified():
    easy, hard = np.full(20, 0.9), np.full(40, 0.1)
    easy[0], hard[0] = 0.8, 0.2
    low, high = interval([easy, hard])
    assert high - low < 0.03 < np.ptp(interval([np.concatenate([easy, hard])]))


@pytest.mark.parametrize("value,bounds", [(0.0, (0.0, 1 - 0.025 ** (1 / 9))), (1.0, (0.025 ** (1 / 9), 1.0))])
def test_nothing_right_or_nothing_wrong_is_no_certainty(value, bounds):
    assert interval([np.full(9, value)]) == pytest.approx(bounds)


def test_a_handful_of_problems_does_not_run_wild():
    low, high = interval([np.array([0.875, 0.125, 0.125, 0.125, 0.125, 0.125])])
    assert low < 0.25 < high < 0.65


def test_an_interval_of_nothing_is_nothing():
    assert all(map(math.isnan, interval([np.array([])])))


def test_the_micro_average_weighs_suites_by_their_problems():
    assert protocol.micro_average({"a": np.array([1.0]), "b": np.zeros(3)}) == 0.25


# --- two evaluations ----------------------------------------------------------------------------------------------


def test_a_paired_difference_by_hand():
    found = paired(np.array([0.0, 0.5, 0.5]), np.array([0.5, 0.5, 1.0]))
    assert found["difference"] == pytest.approx(1 / 3) and found["problems"] == 3
    assert found["p"] == pytest.approx(0.5)  # two problems moved: 2 of 4 sign flips are as large
    assert found["low"] <= 1 / 3 <= found["high"]


def test_equal_evaluations_do_not_differ():
    same = paired(np.array([0.3, 0.6]), np.array([0.3, 0.6]))
    assert (same["difference"], same["low"], same["high"], same["p"]) == (0.0, 0.0, 0.0, 1.0)


def test_false_alarms_are_as_rare_as_promised_and_real_differences_are_seen():
    rng, alarms, seen = np.random.default_rng(5), 0, 0
    for trial in range(300):
        p = rng.beta(1, 1, 24)
        first, second = (rng.binomial(8, p) / 8 for _ in range(2))
        better = rng.binomial(8, np.clip(p + 0.15, 0, 1)) / 8
        alarms += paired(first, second, trial)["p"] < 0.05
        seen += paired(first, better, trial)["p"] < 0.05
    assert alarms <= 30 and seen >= 200


def test_many_problems_are_flipped_at_random_and_repeatably():
    rng = random.Random(1)
    a = np.array([rng.random() for _ in range(40)])
    assert paired(a, a + 0.1 * np.arange(40) % 0.3 - 0.1, 3) == paired(a, a + 0.1 * np.arange(40) % 0.3 - 0.1, 3)
