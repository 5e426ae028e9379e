"""metrics.jsonl is complete up to the last step, whatever happened, and its two views follow it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from conf.errors import UserError
from rl import metrics as module
from rl.metrics import MetricsLog, gauge_name, read_metrics

ROOT = Path(__file__).resolve().parents[1]


class FakeGauge:
    def __init__(self) -> None:
        self.values: list[float] = []

    def set(self, value: float) -> None:
        self.values.append(value)


def lines(run_dir: Path) -> list[str]:
    return (run_dir / "metrics.jsonl").read_text().splitlines()


def test_one_line_a_step_readable_before_close(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "run")
    log.log(1, {"reward/mean": 0.25, "groups/trained": 3})
    log.log(2, {"reward/mean": np.float32(0.5), "groups/trained": np.int64(4)})
    assert lines(tmp_path / "run") == [
        '{"step": 1, "reward/mean": 0.25, "groups/trained": 3}',
        '{"step": 2, "reward/mean": 0.5, "groups/trained": 4}',
    ]
    log.close()
    log.close()


def test_a_line_is_on_disk_before_log_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    log = MetricsLog(tmp_path)
    monkeypatch.setattr(module.os, "fsync", lambda _: synced.append((tmp_path / "metrics.jsonl").read_text()))
    log.log(7, {"lr": 1e-4})
    assert synced == ['{"step": 7, "lr": 0.0001}\n']


def test_values_that_are_not_finite_become_null(tmp_path: Path) -> None:
    with MetricsLog(tmp_path) as log:
        log.log(1, {"loss/policy": float("nan"), "policy/grad_norm": float("inf"), "lr": 0.1})
    assert json.loads(lines(tmp_path)[0], parse_constant=pytest.fail) == {
        "step": 1, "loss/policy": None, "policy/grad_norm": None, "lr": 0.1,
    }  # fmt: skip


def test_a_step_is_written_once(tmp_path: Path) -> None:
    with MetricsLog(tmp_path) as log:
        log.log(5, {"lr": 0.1})
        with pytest.raises(ValueError, match="step 5 is logged after step 5"):
            log.log(5, {"lr": 0.1})
    with MetricsLog(tmp_path) as log, pytest.raises(ValueError, match="step 4 is logged after step 5"):
        log.log(4, {"lr": 0.1})


def test_truncate_after_keeps_up_to_the_step_and_goes_on(tmp_path: Path) -> None:
    with MetricsLog(tmp_path) as log:
        for step in range(1, 6):
            log.log(step, {"lr": step / 10})
        log.truncate_after(3)
        assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3]
        log.log(4, {"lr": 9.0})
    assert [(row["step"], row["lr"]) for row in read_metrics(tmp_path)] == [(1, 0.1), (2, 0.2), (3, 0.3), (4, 9.0)]
    assert not list(tmp_path.glob("*.tmp"))


def test_a_crash_while_truncating_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = MetricsLog(tmp_path)
    log.log(1, {})
    log.log(2, {})

    def crash(*_: object) -> None:
        raise OSError("power cut")

    monkeypatch.setattr(module.os, "replace", crash)
    with pytest.raises(OSError, match="power cut"):
        log.truncate_after(1)
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]


@pytest.mark.parametrize("torn", ['{"step": 3, "rew', '{"step": 3, "rew\n', "3\n", "\x00\x00"])
def test_a_torn_last_line_is_left_out_and_never_continued(tmp_path: Path, torn: str) -> None:
    whole = '{"step": 1}\n{"step": 2}\n'
    (tmp_path / "metrics.jsonl").write_text(whole + torn)
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]
    with MetricsLog(tmp_path) as log:
        log.log(3, {"lr": 0.5})
    assert (tmp_path / "metrics.jsonl").read_text() == whole + '{"step": 3, "lr": 0.5}\n'


def test_damage_elsewhere_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"ste\n{"step": 3}\n')
    with pytest.raises(UserError, match="line 2"):
        read_metrics(tmp_path)


def test_no_file_is_no_steps(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []


def test_gauges_carry_legal_names_and_the_last_values(tmp_path: Path) -> None:
    gauges: dict[str, FakeGauge] = {}
    described: dict[str, str] = {}

    def make(exported: str, metric: str) -> FakeGauge:
        described[exported] = metric
        return gauges.setdefault(exported, FakeGauge())

    with MetricsLog(tmp_path, make_gauge=make) as log:
        log.log(1, {"reward/mean": 0.1, "eval/pass@1": 0.2, "loss/policy": float("nan")})
        log.log(2, {"reward/mean": 0.3, "note": "text is no gauge"})
    assert {name: gauge.values for name, gauge in gauges.items()} == {
        "raythink_reward_mean": [0.1, 0.3],
        "raythink_eval_pass_1": [0.2],
    }
    assert described["raythink_eval_pass_1"] == "eval/pass@1"
    assert gauge_name("time/idle") == "raythink_time_idle"


def test_logging_does_not_load_torch_or_ray(tmp_path: Path) -> None:
    code = (
        "import sys; from rl.metrics import MetricsLog; log = MetricsLog(sys.argv[1]); log.log(1, {'lr': 0.1})\n"
        "print([name for name in ('torch', 'ray', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "[]\n", done.stderr


def test_tensorboard_shows_each_step_once_after_a_resume(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with MetricsLog(tmp_path) as log:
        for step in (1, 2, 3):
            log.log(step, {"reward/mean": 0.0})
    with MetricsLog(tmp_path) as log:
        log.truncate_after(1)
        log.log(2, {"reward/mean": 0.5})
    events = EventAccumulator(str(tmp_path / "events")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("reward/mean")] == [(1, 0.0), (2, 0.5)]
