"""What a run left in its folder. Each file may be missing or damaged: that becomes a note, never a failure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import yaml

from conf.errors import UserError
from rl.metrics import METRICS_FILE, read_metrics

SAMPLE_COLUMNS = (
    "problem_id", "domain", "prompt", "completion", "status", "score", "reason", "tokens", "finish_reason",
    "policy_version",
)  # fmt: skip

T = TypeVar("T")


@dataclass(frozen=True)
class RunInputs:
    """A run as the report sees it. `notes` are sentences about what is missing."""

    run_dir: Path
    config_text: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    summary: Mapping[str, Any] = field(default_factory=dict)
    before: list[dict[str, Any]] = field(default_factory=list)
    after: list[dict[str, Any]] = field(default_factory=list)
    finished_at: datetime | None = None
    notes: tuple[str, ...] = ()


def load_run(run_dir: str | Path) -> RunInputs:
    """Read a run's folder. Raises UserError only if there is no such folder."""
    folder = Path(run_dir)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: give the folder of a run, for example runs/latest")
    notes: list[str] = []
    config_text = _read(folder / "config.yaml", lambda p: p.read_text(encoding="utf-8"), "", notes)
    summary: Mapping[str, Any] = _read(folder / "summary.json", _json_object, {}, notes)
    if not summary:
        notes.append("The run has not finished, or was stopped: what follows is what it had done so far.")
    elif summary.get("interrupted"):
        notes.append("The run was interrupted: what follows is what it had done so far.")
    config = _as_mapping(config_text, notes)
    sampled = config.get("mode") != "sft"  # which evaluates as it goes, and has no before and after
    written = [p.stat().st_mtime for p in (folder / METRICS_FILE, folder / "summary.json") if p.exists()]
    return RunInputs(
        run_dir=folder,
        config_text=config_text,
        config=config,
        metrics=_read(folder / METRICS_FILE, lambda _: read_metrics(folder), [], notes),
        summary=summary,
        before=_read(folder / "samples" / "before.parquet", _samples, [], notes) if sampled else [],
        after=_read(folder / "samples" / "after.parquet", _samples, [], notes) if sampled else [],
        finished_at=datetime.fromtimestamp(max(written)).astimezone() if written else None,
        notes=tuple(notes),
    )


def _read(path: Path, reader: Callable[[Path], T], otherwise: T, notes: list[str]) -> T:
    name = f"{path.parent.name}/{path.name}" if path.parent.name == "samples" else path.name
    if not path.exists():
        notes.append(f"{name} is not there.")
        return otherwise
    try:
        return reader(path)
    except (OSError, ValueError, KeyError, UserError) as error:  # JSON, Unicode and Arrow errors are ValueErrors
        notes.append(f"{name} cannot be read: {str(error).splitlines()[0][:200]}")
        return otherwise


def _json_object(path: Path) -> Mapping[str, Any]:
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    return value


def _as_mapping(text: str, notes: list[str]) -> Mapping[str, Any]:
    try:
        value = yaml.safe_load(text) if text else {}
    except yaml.YAMLError:
        notes.append("config.yaml is not valid YAML: it is shown as it is.")
        return {}
    return value if isinstance(value, dict) else {}


def _samples(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as parquet  # lazy: the page can be drawn without samples

    table = parquet.read_table(path)
    missing = [name for name in ("problem_id", "completion", "status") if name not in table.column_names]
    if missing:
        raise ValueError(f"column {missing[0]} is missing")
    rows = table.select([name for name in SAMPLE_COLUMNS if name in table.column_names]).to_pylist()
    return [dict.fromkeys(SAMPLE_COLUMNS) | row for row in rows]
