"""Advantages and rewards by hand and by property. The losses are compared with verl's in test_objective_verl.py."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.schema import keys
from rl.objective import ADVANTAGES, group_advantages, has_signal, overlong_punishment

METHODS = sorted(ADVANTAGES)
QUICK = settings(max_examples=80, deadline=None)

REWARDS = st.lists(st.tuples(st.floats(-1, 1), st.booleans()), min_size=1, max_size=16)


def all_valid(rewards):
    return [True] * len(rewards)


def test_every_advantage_of_the_configuration_is_there():
    assert set(METHODS) == set(keys()["rl.advantage"].choices)


@pytest.mark.parametrize("method,expected", [
    ("grpo_centered", [0.75, -0.25, -0.25, -0.25]),
    ("dr_grpo", [0.75, -0.25, -0.25, -0.25]),
    ("grpo_std", [1.5, -0.5, -0.5, -0.5]),  # the deviation of 1 0 0 0 with n - 1 is 1/2
    ("rloo", [1.0, -1 / 3, -1 / 3, -1 / 3]),  # a reward less the mean of the others
])
def test_advantages_by_hand(method, expected):
    got = group_advantages([1, 0, 0, 0], all_valid(range(4)), method)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_leave_one_out_is_a_reward_less_the_mean_of_the_others():
    rewards = np.random.default_rng(0).random(9)
    others = [rewards[i] - np.delete(rewards, i).mean() for i in range(9)]
    np.testing.assert_allclose(group_advantages(rewards, all_valid(rewards), "rloo"), others, rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rewards,valid", [
    ([1.0], [True]),
    ([1.0, 0.0], [True, False]),
    ([1.0, 0.5, 0.0], [False, False, True]),
    ([1.0, 0.0], [False, False]),
])
def test_a_group_of_one_has_no_baseline_and_no_advantage(method, rewards, valid):
    np.testing.assert_array_equal(group_advantages(rewards, valid, method), np.zeros(len(rewards)))


@QUICK
@given(rows=REWARDS, method=st.sampled_from(METHODS))
def test_errors_take_no_part_in_the_baseline(rows, method):
    rewards, valid = (np.array(column) for column in zip(*rows))
    got = group_advantages(rewards, valid, method)
    np.testing.assert_array_equal(got[~valid], 0)
    np.testing.assert_array_equal(got[valid], group_advantages(rewards[valid], all_valid(rewards[valid]), method))
    np.testing.assert_array_equal(got, group_advantages(np.where(valid, rewards, 0.5), valid, method))


@QUICK
@given(rows=REWARDS, method=st.sampled_from(METHODS))
def test_advantages_sum_to_zero_and_keep_the_order_of_rewards(rows, method):
    rewards, valid = (np.array(column) for column in zip(*rows))
    got = group_advantages(rewards, valid, method)
    assert abs(got.sum(dtype=np.float64)) < 1e-5
    if valid.sum() >= 2:
        assert (np.diff(got[valid][np.argsort(rewards[valid])]) >= 0).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("reward", [0.0, 0.1, 1.0])
def test_equal_rewards_have_no_advantage(method, reward):
    np.testing.assert_allclose(group_advantages([reward] * 6, all_valid(range(6)), method), 0, atol=1e-9)


@pytest.mark.parametrize("rewards,valid,signal", [
    ([0, 1], [True, True], True),
    ([1, 1, 1], [True, True, True], False),
    ([0, 0, 0], [True, True, True], False),
    ([0, 0, 1], [True, True, False], False),
    ([0, 1, 1], [True, True, False], True),
    ([0.5, 0.5 + 1e-9], [True, True], False),
    ([1], [True], False),
    ([0, 1], [True, False], False),
    ([0, 1], [False, False], False),
    ([], [], False),
])
def test_a_group_has_a_signal_where_valid_rewards_differ(rewards, valid, signal):
    assert has_signal(rewards, valid) is signal


@pytest.mark.parametrize("length,punishment", [
    (0, 0.0), (80, 0.0), (81, -0.05), (90, -0.5), (99, -0.95), (100, -1.0), (101, -1.0), (1000, -1.0)])
def test_the_overlong_punishment_at_its_corners(length, punishment):
    assert overlong_punishment(length, limit=100, buffer=20) == pytest.approx(punishment)


@pytest.mark.parametrize("length", [0, 99, 100, 101])
def test_without_a_buffer_no_length_is_punished(length):
    assert overlong_punishment(length, limit=100, buffer=0) == 0.0


@QUICK
@given(st.integers(1, 300), st.integers(1, 200), st.integers(1, 200))
def test_the_punishment_never_rises_with_length(length, limit, buffer):
    here, next_one = (overlong_punishment(n, limit, buffer) for n in (length, length + 1))
    assert -1.0 <= next_one <= here <= 0.0
