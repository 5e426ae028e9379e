"""Which policy version sampled which tokens of a completion."""

from __future__ import annotations

import numpy as np
import pytest

from actors.engine.versions import spans, whose
from actors.messages import Completion, Problem, RolloutGroup
from rl.batch import rollout_metrics


@pytest.mark.parametrize(("start", "marks", "total", "found"), [
    (3, [], 5, ((3, 5),)),
    (3, [(2, 4)], 5, ((3, 2), (4, 3))),
    (3, [(2, 4), (2, 5)], 5, ((3, 2), (5, 3))),  # two updates between two tokens
    (3, [(0, 4)], 5, ((4, 5),)),  # updated before its first token
    (3, [(2, 4), (4, 5)], 4, ((3, 2), (4, 2))),  # the last update came after its last token
    (3, [(6, 4)], 5, ((3, 5),)),  # stopped within the step that was on its way
    (3, [], 0, ()),
])  # fmt: skip
def test_spans(start, marks, total, found):
    assert spans(start, marks, total) == found


def test_a_completion_is_known_by_vllms_name_of_it():
    assert whose("12/g/7-0a1b2c3d") == ("12/g/7", 0) and whose("3_12/warm-up-0a1b2c3d") == ("12/warm-up", 3)
    assert whose("12/g") is None and whose("cmpl-0a1b2c3d") is None


def test_the_age_of_tokens_is_counted_span_by_span():
    problem = Problem("p", ({"role": "user", "content": "?"},), "math", "math", "1")
    ids, logprobs = np.arange(10, dtype=np.int32), np.zeros(10, np.float32)
    stale = Completion("", ids, logprobs, "stop", 3, 5, ((3, 4), (5, 6)))
    fresh = Completion("", ids, logprobs, "stop", 5, 5)
    assert fresh.spans == ((5, 10),)
    group = RolloutGroup(0, problem, ids, (stale, fresh))
    metrics = rollout_metrics([], [group], 5)
    assert metrics["staleness/max"] == 2 and metrics["staleness/tokens"] == pytest.approx(2 * 4 / 20)
