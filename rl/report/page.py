"""The page: what was read, drawn and chosen, put into the template. Jinja escapes all that is not our own markup."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from actors.messages import DOMAINS
from rl.progress import duration
from rl.report.charts import draw
from rl.report.inputs import RunInputs, load_run
from rl.report.samples import choose

REPORT_FILE = "report.html"
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Row:
    """A line of the before/after table; scores in [0, 1], None where not measured."""

    label: str
    before: float | None
    after: float | None
    tokens_before: float | None = None
    tokens_after: float | None = None

    @property
    def points(self) -> float | None:
        """The change in percentage points, rounded as shown."""
        if self.before is None or self.after is None:
            return None
        return round(100 * (self.after - self.before), 1) + 0.0  # + 0.0: no "-0.0"


def write_report(run_dir: str | Path) -> Path:
    """Write `run_dir`/report.html (whole or not at all) and return its path.

    Raises UserError if `run_dir` is not a folder; whatever else is missing, the page says.
    """
    inputs = load_run(run_dir)
    path = inputs.run_dir / REPORT_FILE
    aside = path.with_name(path.name + ".tmp")
    aside.write_text(render(inputs), encoding="utf-8")
    os.replace(aside, path)
    return path


def environment() -> Environment:
    """Where the templates lie, and how they show numbers."""
    made = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters |= {"percent": _percent, "whole": _whole, "signed": lambda points: f"{points:+.1f}"}
    return made


def render(inputs: RunInputs) -> str:
    """The page as HTML."""
    pairs, outcomes = choose(inputs.before, inputs.after)
    domains, overall = comparison(inputs.summary)
    return environment().get_template("page.html.j2").render(
        name=_name(inputs),
        facts=header(inputs),
        notes=inputs.notes,
        domains=domains,
        overall=overall,
        sections=draw(inputs.metrics),
        pairs=pairs,
        outcomes=outcomes,
        config_text=inputs.config_text,
        checkpoint=inputs.summary.get("checkpoint") or "",
        style=Markup((HERE / "style.css").read_text(encoding="utf-8")),  # ours: not to be escaped
    )


def header(inputs: RunInputs) -> list[tuple[str, str]]:
    """(label, text) of what is known about the run; what is not known is left out."""
    summary, config = inputs.summary, inputs.config
    model, run = config.get("model"), inputs.metrics
    path = model.get("path") if isinstance(model, Mapping) else model
    steps = summary.get("steps") or (run[-1]["step"] if run else None)
    wall = _float(summary.get("wall_s"))
    best, data = _mapping(summary.get("best")), _mapping(summary.get("data"))
    left_out = [f"{count} {why}" for why, count in _mapping(data.get("left_out")).items() if count]
    facts = {
        "finished" if summary and not summary.get("interrupted") else "last written": (
            f"{inputs.finished_at:%Y-%m-%d %H:%M}" if inputs.finished_at else None
        ),
        "model": summary.get("model") or path,
        "recipe": summary.get("recipe") or config.get("recipe"),
        "mode": config.get("mode"),
        "steps": steps,
        "wall time": duration(wall) if wall is not None else None,
        "policy version": summary.get("policy_version"),
        "seed": config.get("seed"),
        "machine": summary.get("machine"),
        "lowest validation loss": f"{best['loss']:.4f} at step {best['step']}" if best else None,
        "dialogues": f"{data['dialogues']} ({', '.join(left_out) or 'none'} left out)" if data else None,
    }
    return [(label, str(value)) for label, value in facts.items() if value not in (None, "")]


def comparison(summary: Mapping[str, Any]) -> tuple[list[Row], list[Row]]:
    """The rows of the domains, and those over all of them: pass@1, then pass@k where it was measured."""
    before, after = (_mapping(summary.get(key)) for key in ("eval_before", "eval_after"))
    by_domain = [_mapping(side.get("domains")) for side in (before, after)]
    names = sorted({*by_domain[0], *by_domain[1]}, key=lambda d: (DOMAINS.index(d) if d in DOMAINS else 99, d))
    rows = [_row(name, *(_mapping(side.get(name)) for side in by_domain)) for name in names]
    overall = [_mapping(side.get("overall")) for side in (before, after)]
    if not overall[0] and not overall[1]:
        return rows, []
    others = sorted({k for side in overall for k in side if k.startswith("pass@") and k != "pass@1"}, key=_k)
    total = [_row("overall", *overall)]
    return rows, total + [Row(f"overall, {k}", *(_float(side.get(k)) for side in overall)) for k in others]


def _row(label: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Row:
    sides = (before, after)
    return Row(label, *(_float(s.get("pass@1")) for s in sides), *(_float(s.get("tokens")) for s in sides))


def _k(name: str) -> int:
    digits = name.removeprefix("pass@")
    return int(digits) if digits.isdigit() else 0


def _name(inputs: RunInputs) -> str:
    return str(inputs.summary.get("run") or inputs.run_dir.resolve().name)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _float(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _whole(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}"
