"""Where a run's numbers go: metrics.jsonl (the truth), TensorBoard events and Ray gauges (two views of it).

One JSON object a step, in increasing order of steps, each on disk (fsync) before `log` returns, so that a killed
run has lost at most the step it was in. Each step is written once: a resumed run first drops, with
`truncate_after`, the steps it is about to do again. `null` stands for a value that was not finite (NaN, inf).
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from numbers import Integral
from pathlib import Path
from typing import Any, Protocol

from conf.errors import UserError

METRICS_FILE = "metrics.jsonl"
EVENTS_DIR = "events"


class Gauge(Protocol):
    """What is asked of a `ray.util.metrics.Gauge`."""

    def set(self, value: float) -> None: ...


GaugeFactory = Callable[[str, str], Gauge]
"""(exported name, name of the metric) -> Gauge."""


def gauge_name(metric: str) -> str:
    """The name a metric is exported under: "reward/mean" -> "raythink_reward_mean"."""
    return "raythink_" + re.sub(r"[^A-Za-z0-9_]", "_", metric)


class MetricsLog:
    """Writes a run's metrics. Opening an existing folder continues its file, less a torn last line.

    `make_gauge` replaces Ray's gauges (tests); without it they are used from the first `log` after `ray.init`.
    """

    def __init__(self, run_dir: str | Path, *, make_gauge: GaugeFactory | None = None) -> None:
        self._dir = Path(run_dir)
        self._dir.mkdir(parents=True, exist_ok=True)
        self._path = self._dir / METRICS_FILE
        self._make_gauge = make_gauge
        self._gauges: dict[str, Gauge] = {}
        self._events: Any = None
        self._last_step = -1
        self._file: Any = None
        self._continue_file(sys.maxsize)

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Record one step. Values are numbers, or what `float` takes (NumPy scalars, 0-d tensors), or strings.

        Raises ValueError if `step` is not after the last one: that step would be in the file twice.
        """
        if step <= self._last_step:
            raise ValueError(f"step {step} is logged after step {self._last_step}: each step is written once")
        row = {"step": step} | {name: _plain(value) for name, value in metrics.items() if name != "step"}
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._last_step = step
        numbers = {n: float(v) for n, v in row.items() if n != "step" and isinstance(v, (int, float))}
        self._log_events(step, numbers)
        self._set_gauges(numbers)

    def truncate_after(self, step: int) -> None:
        """Forget every step after `step`, atomically: a crash leaves the old file or the new one."""
        self._file.close()
        self._continue_file(step)

    def close(self) -> None:
        """Flush and close the files. Safe to call twice."""
        self._file.close()
        if self._events is not None:
            self._events.close()
            self._events = None

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _continue_file(self, last: int) -> None:
        old = self._path.read_bytes() if self._path.exists() else b""
        rows = [row for row in read_metrics(self._dir) if row["step"] <= last]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        if text.encode() != old:
            _replace(self._path, text)
        self._last_step = rows[-1]["step"] if rows else -1
        self._file = self._path.open("a", encoding="utf-8")
        if self._events is not None:
            self._events.close()
            self._events = None  # reopened by the next `log`, whose step TensorBoard then goes on from

    def _log_events(self, step: int, numbers: Mapping[str, float]) -> None:
        # The writer of the tensorboard package itself: torch's and tensorboardX's load torch, seconds and hundreds
        # of megabytes that the process of the loop has no other use for.
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        now = time.time()
        if self._events is None:
            self._events = EventFileWriter(str(self._dir / EVENTS_DIR), flush_secs=10)
            # A session's start hides what an earlier life of this run wrote about this step and the later ones.
            start = SessionLog(status=SessionLog.START)
            self._events.add_event(Event(wall_time=now, step=step, session_log=start))
        values = [Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
        self._events.add_event(Event(wall_time=now, step=step, summary=Summary(value=values)))

    def _set_gauges(self, numbers: Mapping[str, float]) -> None:
        make_gauge = self._make_gauge or _ray_gauge_factory()
        if make_gauge is None:
            return
        for name, value in numbers.items():
            if name not in self._gauges:
                self._gauges[name] = make_gauge(gauge_name(name), name)
            self._gauges[name].set(value)


def read_metrics(run_dir: str | Path) -> list[dict[str, Any]]:
    """The steps of a run, [] if it has none yet. A torn last line (a write cut short by a crash) is left out.

    Raises UserError for a line that is damaged elsewhere than at the end: that is no crash of ours.
    """
    path = Path(run_dir) / METRICS_FILE
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        row = _parse(line)
        if row is not None:
            rows.append(row)
        elif line.strip() and any(later.strip() for later in lines[number:]):
            raise UserError(f"{path}: line {number} is no metrics of a step: delete that line to go on")
    return rows


def _parse(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


def _plain(value: Any) -> int | float | str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Integral):  # bool, int, NumPy's integers
        return int(value)
    number = float(value)
    return number if math.isfinite(number) else None


def _replace(path: Path, text: str) -> None:
    """Write `text` aside, then rename it over `path`."""
    aside = path.with_name(path.name + ".tmp")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


def _ray_gauge_factory() -> GaugeFactory | None:
    # Looked up, not imported: a run without Ray (tests, tools) must not pay for importing it.
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return None
    from ray.util.metrics import Gauge as RayGauge

    return lambda exported, metric: RayGauge(exported, description=f"raythink: {metric}")
