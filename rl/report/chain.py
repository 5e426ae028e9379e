"""The report of a pipeline: what each stage reached, stage by stage, on one page (see page.py for that of a run)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from rl.progress import duration
from rl.report.charts import Section, draw
from rl.report.inputs import load_run
from rl.report.page import HERE, REPORT_FILE, environment


@dataclass(frozen=True)
class Rung:
    """One measurement on held-out problems: score in [0, 1], its 95 % interval, mean tokens of an answer."""

    label: str
    score: float
    tokens: float | None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class StageView:
    name: str
    words: str
    facts: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]
    link: str


def write_chain(folder: Path) -> Path:
    """Write `folder`/report.html from pipeline.json, summary.json and the stages' folders; returns its path."""
    inputs = load_run(folder)
    summaries = inputs.summary.get("stages") or {}
    state = inputs.summary.get("seconds") or {}
    stages = [_view(folder, name, summary, state.get(name)) for name, summary in summaries.items()]
    wall = inputs.summary.get("wall_s")
    facts = [("wall time of all stages", duration(wall))] if wall else []
    machine = next((s["machine"] for s in summaries.values() if isinstance(s, dict) and s.get("machine")), None)
    facts += [("machine", machine)] if machine else []
    text = environment().get_template("chain.html.j2").render(
        name=folder.name,
        facts=facts,
        notes=[note for note in inputs.notes if "metrics" not in note and "samples" not in note],
        rungs=list(rungs(summaries)),
        stages=stages,
        style=Markup((HERE / "style.css").read_text(encoding="utf-8")),
    )
    path = folder / REPORT_FILE
    aside = path.with_name(path.name + ".tmp")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)
    return path


def rungs(summaries: Mapping[str, Mapping[str, Any]]) -> Iterator[Rung]:
    """What the stages measured, in their order."""
    for name, summary in summaries.items():
        for key, when in (("eval_before", "before"), ("eval_after", "after")):
            if overall := (summary.get(key) or {}).get("overall"):
                yield _rung(f"{when} {name}", overall)
        ablations = summary.get("ablation") or {}
        for arms in ablations.values():
            for arm, scores in arms.items():
                yield _rung(f"{name}, {arm}", {**scores, "tokens": scores["all_tokens"]}, scores["interval"])
        if not ablations and (overall := (summary.get("eval") or {}).get("overall")):
            yield _rung(name, overall, summary.get("interval"))


def _rung(label: str, scores: Mapping[str, Any], interval: Any = None) -> Rung:
    span = tuple(interval) if interval else None
    return Rung(label, float(scores.get("pass@1") or 0.0), scores.get("tokens"), span)


def _view(folder: Path, name: str, summary: Mapping[str, Any], seconds: float | None) -> StageView:
    stage = folder / name
    known = stage.is_dir()
    inputs = load_run(stage) if known else None
    words = " ".join(_words(folder).get(name, []))
    facts = {"took": duration(seconds) if seconds else None, "model": summary.get("model"),
             "steps": summary.get("steps"), "checkpoint": summary.get("checkpoint")}
    link = f"{name}/{REPORT_FILE}" if (stage / REPORT_FILE).is_file() else ""
    sections = tuple(draw(inputs.metrics)) if inputs and inputs.metrics else ()
    return StageView(name, words, tuple((k, str(v)) for k, v in facts.items() if v not in (None, "")), sections, link)


def _words(folder: Path) -> dict[str, list[str]]:
    from rl.checkpoint import read_json

    state = read_json(folder / "pipeline.json") or {}
    return {name: entry["words"] for name, entry in state.items()}
