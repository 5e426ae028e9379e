"""From verified groups to the learner's batch: what is learnt, aligned with what, and what is left out."""

from __future__ import annotations

import numpy as np
import pytest

from actors.messages import Completion, Problem, RolloutGroup, Verdict
from conf.schema import RLConfig
from rl.batch import filter_reason, rewards, rollout_metrics, sequences
from rl.packing import token_batch

LIMIT = 10


def completion(*tokens: int, finish: str = "stop", version: int = 0) -> Completion:
    """Its logprobs are minus a tenth of its token ids, so that a shift shows."""
    ids = np.array(tokens, np.int32)
    return Completion("", ids, (-ids / 10).astype(np.float32), finish, version, version)


def verdict(score: float | None) -> Verdict:
    """None stands for a verifier's error."""
    return Verdict("error", 0.0) if score is None else Verdict("correct" if score == 1 else "incorrect", score)


def group(*rows: tuple[Completion, float | None], prompt=(1, 2), group_id: int = 4, domain: str = "math"):
    problem = Problem("p", ({"role": "user", "content": "?"},), domain, domain, "1")
    completions, scores = zip(*rows)
    ids = np.array(prompt, np.int32)
    return RolloutGroup(group_id, problem, ids, tuple(completions), tuple(verdict(s) for s in scores))


# --- sequences ----------------------------------------------------------------------------------------------------


def test_a_sequence_is_prompt_and_answer_with_fields_of_the_same_token():
    first, second = sequences([group((completion(5, 6, 7), 1.0), (completion(8), 0.0))], RLConfig(), LIMIT)
    assert first["group"] == second["group"] == 4
    assert first["tokens"].tolist() == [1, 2, 5, 6, 7]
    assert first["mask"].tolist() == [0, 0, 1, 1, 1]
    np.testing.assert_allclose(first["rollout_logprobs"], [0, 0, -0.5, -0.6, -0.7], rtol=1e-6)
    np.testing.assert_allclose(first["advantages"], [0, 0, 0.5, 0.5, 0.5])
    assert second["tokens"].tolist() == [1, 2, 8]
    np.testing.assert_allclose(second["advantages"], [0, 0, -0.5])
    assert all(first[name].dtype == np.float32 for name in ("mask", "rollout_logprobs", "advantages"))


def test_alignment_survives_the_joining_of_groups():
    groups = [group((completion(5, 6, 7), 1.0), (completion(8), 0.0)),
              group((completion(9, 9), 0.0), (completion(3), 1.0), prompt=(4, 4, 4), group_id=5)]
    batch = token_batch(sequences(groups, RLConfig(), LIMIT), budget=6)
    learnt = batch.fields["mask"] > 0
    np.testing.assert_allclose(batch.fields["rollout_logprobs"][learnt], -batch.tokens[learnt] / 10, rtol=1e-6)
    assert not batch.fields["rollout_logprobs"][~learnt].any() and not batch.fields["advantages"][~learnt].any()
    assert batch.prefixes.tolist() == [2, 2, 3, 3] and batch.mask_tokens == 7


def test_truncated_answers_are_left_out_but_stay_in_the_baseline():
    mixed = group((completion(5), 1.0), (completion(6), 0.0), (completion(7, 7, finish="length"), 0.0))
    kept = sequences([mixed], RLConfig(mask_truncated=True), LIMIT)
    assert [s["tokens"].tolist() for s in kept] == [[1, 2, 5], [1, 2, 6]]
    np.testing.assert_allclose([s["advantages"][-1] for s in kept], [2 / 3, -1 / 3], rtol=1e-6)
    assert len(sequences([mixed], RLConfig(mask_truncated=False), LIMIT)) == 3


def test_answers_without_a_verdict_are_left_out_and_take_no_part():
    mixed = group((completion(5), 1.0), (completion(6), None), (completion(7), 0.0))
    kept = sequences([mixed], RLConfig(), LIMIT)
    assert [s["tokens"].tolist() for s in kept] == [[1, 2, 5], [1, 2, 7]]
    np.testing.assert_allclose([s["advantages"][-1] for s in kept], [0.5, -0.5])


def test_empty_answers_are_left_out():
    assert len(sequences([group((completion(5), 1.0), (completion(), 0.0))], RLConfig(), LIMIT)) == 1


def test_a_group_of_one_teaches_nothing():
    (only,) = sequences([group((completion(5), 1.0), (completion(6), None))], RLConfig(), LIMIT)
    assert not only["advantages"].any()


def test_the_advantage_is_the_configured_one():
    rows = sequences([group((completion(5), 1.0), (completion(6), 0.0))], RLConfig(advantage="rloo"), LIMIT)
    assert [s["advantages"][-1] for s in rows] == [1.0, -1.0]


def test_a_group_without_all_its_verdicts_is_a_bug():
    whole = group((completion(5), 1.0), (completion(6), 0.0))
    half = RolloutGroup(0, whole.problem, whole.prompt_ids, whole.completions, whole.verdicts[:1])
    with pytest.raises(ValueError, match="shorter"):
        sequences([half], RLConfig(), LIMIT)


# --- rewards and filter -------------------------------------------------------------------------------------------


def test_rewards_are_scores_with_the_length_punishment():
    long = completion(*range(9))
    values, valid = rewards(group((completion(5), 1.0), (long, 1.0), (long, None)), RLConfig(overlong_buffer=4), LIMIT)
    np.testing.assert_allclose(values, [1.0, 0.25, -0.75])  # 9 tokens are 3 into a buffer of 4 below 10
    assert valid.tolist() == [True, True, False]


@pytest.mark.parametrize("scores,buffer,reason", [
    ([1.0, 0.0], 0, ""),
    ([1.0, 0.5], 0, ""),
    ([1.0, 1.0], 0, "all correct"),
    ([0.0, 0.0], 0, "all incorrect"),
    ([1.0, 1.0, None], 0, "all correct"),
    ([1.0, None], 0, "verifier errors"),
    ([None, None], 0, "verifier errors"),
    ([1.0, 1.0], 10, ""),  # the same score, but one is longer
])
def test_a_group_without_a_signal_is_filtered_with_its_reason(scores, buffer, reason):
    rows = [(completion(*range(1, 2 + i)), score) for i, score in enumerate(scores)]
    assert filter_reason(group(*rows), RLConfig(overlong_buffer=buffer), LIMIT) == reason


@pytest.mark.parametrize("scores,reason", [([1.0, 1.0], ""), ([0.0, 0.0], ""), ([1.0, None], "verifier errors")])
def test_groups_without_a_signal_are_kept_if_so_configured(scores, reason):
    rows = [(completion(5), score) for score in scores]
    assert filter_reason(group(*rows), RLConfig(filter_groups=False), LIMIT) == reason


# --- metrics ------------------------------------------------------------------------------------------------------


def test_metrics_by_hand():
    seen = [
        group((completion(5, 6, version=3), 1.0), (completion(7, version=2), None), group_id=0),
        group((completion(5, 5, 5, finish="length", version=3), 0.0), (completion(8, 8, version=3), 0.5), group_id=1,
              domain="code"),
    ]
    metrics = rollout_metrics(seen, trained=seen[:1], version=4)
    assert metrics == {
        "reward/mean": 0.5,
        "reward/math": 1.0,
        "reward/code": 0.25,
        "verdict/error_rate": 0.25,
        "tokens/generated": 8,
        "length/mean": 2.0,
        "length/truncated": 0.25,
        "staleness/mean": 2.0,
        "staleness/max": 2,
        "staleness/tokens": pytest.approx(4 / 3),
    }


def test_metrics_of_a_step_that_brought_nothing():
    metrics = rollout_metrics([], [], 3)
    assert set(metrics.values()) == {0} and "reward/math" not in metrics


def test_a_domain_with_errors_only_has_no_reward():
    metrics = rollout_metrics([group((completion(5), None), domain="logic")], [], 0)
    assert "reward/logic" not in metrics and metrics["verdict/error_rate"] == 1.0
