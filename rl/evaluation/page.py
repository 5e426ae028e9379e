"""report.html of an evaluation: what summary.json holds, beside the published figures. No script, nothing fetched."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from rl.evaluation.charts import COLOURS, Dot, curves, whiskers
from rl.evaluation.compare import said
from rl.evaluation.results import KS
from rl.progress import duration
from rl.report.page import HERE as REPORT
from rl.report.page import REPORT_FILE

HERE = Path(__file__).parent
PAPERS_MATH = {"aime24", "aime25", "hmmt25", "omni_math_hard"}


def write_page(folder: Path) -> Path:
    """Write `folder`/report.html (whole or not at all) from its summary.json and return its path."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    config = folder / "config.yaml"
    text = render(summary, config.read_text(encoding="utf-8") if config.is_file() else "")
    path, aside = folder / REPORT_FILE, folder / f".{REPORT_FILE}.tmp"
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)
    return path


def published() -> dict[str, Any]:
    """The figures of published.yaml."""
    return yaml.safe_load((HERE / "published.yaml").read_text(encoding="utf-8"))


def render(summary: Mapping[str, Any], config_text: str = "") -> str:
    """The page as HTML. Jinja escapes all that is not our own markup."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": _percent, "points": lambda v: f"{100 * v:+.1f}", "whole": lambda v: f"{v:.0f}",
                            "span": _span, "signed": lambda v: f"{100 * v:+.1f} %", "said": said}
    style = (REPORT / "style.css").read_text(encoding="utf-8") + (HERE / "page.css").read_text(encoding="utf-8")
    figures = published()
    if set(summary.get("math", {}).get("suites", ())) != PAPERS_MATH:
        figures["figures"].pop("math", None)  # the published average is over exactly these four
    return environment.get_template("page.html.j2").render(
        name=summary.get("run", ""),
        facts=facts(summary),
        suites=suite_rows(summary, figures["figures"]),
        math=summary.get("math"),
        whiskers=suite_chart(summary, figures["figures"]),
        curves=curve_charts(summary),
        ablation=ablation_parts(summary),
        safety=summary.get("safety"),
        compared=summary.get("compared"),
        pair=summary.get("compare"),
        compared_chart=compared_chart(summary),
        published=figures,
        sources=sources(summary, figures["figures"]),
        config_text=config_text,
        style=Markup(style),  # ours: not to be escaped
    )


def facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    settings = summary.get("settings", {})
    sampled = {entry["samples_each"] for entry in summary.get("suites", {}).values()}
    known = {
        "model": summary.get("model"),
        "engine": settings.get("engine.url") or settings.get("engine.kind"),
        "temperature": settings.get("eval.temperature"),
        "top-p": settings.get("eval.top_p"),
        "longest answer": f"{settings['eval.max_tokens']} tokens" if settings else None,
        "runs": ", ".join(map(str, sorted(sampled))) or None,
        "seed": settings.get("eval.seed"),
        "judge": settings.get("verifier.judge"),
        "wall time": duration(summary["wall_s"]) if "wall_s" in summary else None,
    }
    return [(label, str(value)) for label, value in known.items() if value not in (None, "")]


def suite_rows(summary: Mapping[str, Any], figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A line a suite and, indented, one a domain of it; `best` is the largest k that was estimated."""
    rows = []
    for name, entry in summary.get("suites", {}).items():
        figure = figures.get(name)
        rows.append({"label": entry["title"], "strong": True, "published": figure, **_line(entry)})
        rows += [{"label": domain, "strong": False, "published": None, **_line(scores)}
                 for domain, scores in entry.get("domains", {}).items()]
        if "main" in entry:
            line = {"tokens": None, "spread": None, "truncated": None, "errors": "", "best": None, "skipped": ""}
            rows.append({"label": "main problems", "strong": False, "published": None, **line, **entry["main"]})
    return rows


def _line(entry: Mapping[str, Any]) -> dict[str, Any]:
    best = max((k for k in KS if f"pass@{k}" in entry and k > 1), default=None)
    skipped = ", ".join(f"{count} {reason}" for reason, count in entry.get("skipped", {}).items())
    return {
        "problems": entry["problems"], "pass@1": entry.get("pass@1"), "interval": entry.get("interval"),
        "spread": entry["spread"], "tokens": entry["tokens"], "truncated": entry["truncated"],
        "errors": entry["errors"], "skipped": skipped,
        "best": None if best is None else (best, entry[f"pass@{best}"], entry[f"maj@{best}"]),
    }  # fmt: skip


def suite_chart(summary: Mapping[str, Any], figures: Mapping[str, Any]) -> Markup | None:
    dots = []
    for name, entry in summary.get("suites", {}).items():
        if entry.get("pass@1") is not None:
            mark = figures.get(name, {}).get("value")
            dots.append(Dot(name, entry["pass@1"], *entry["interval"], entry["runs"], mark))
            dots += [Dot(domain, s["pass@1"], *s["interval"], s["runs"])
                     for domain, s in entry.get("domains", {}).items() if s.get("pass@1") is not None]
    if of_math := summary.get("math"):
        dots.append(Dot("math micro-average", of_math["pass@1"], *of_math["interval"], (),
                        figures.get("math", {}).get("value")))
    return whiskers(dots) if dots else None


def curve_charts(summary: Mapping[str, Any]) -> list[tuple[str, Markup, list[tuple[str, str]]]]:
    """pass@k and maj@k over k of each suite that was sampled more than once."""
    charts = []
    for entry in summary.get("suites", {}).values():
        if "pass@2" not in entry:
            continue
        lines = {kind: {1: entry["pass@1"]} | {k: entry[f"{kind}@{k}"] for k in KS if f"{kind}@{k}" in entry}
                 for kind in ("pass", "maj", "best")}
        lines = {f"{kind}@k": line for kind, line in lines.items() if len(line) > 1}
        charts.append((entry["title"], curves(lines), list(zip(lines, COLOURS, strict=False))))
    return charts


def ablation_parts(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For each suite: its arms, and the chart of their scores."""
    return [{"name": name, "arms": arms,
             "chart": whiskers([Dot(arm, e["pass@1"], *e["interval"]) for arm, e in arms.items()
                                if e["pass@1"] is not None])}
            for name, arms in summary.get("ablation", {}).items()]


def compared_chart(summary: Mapping[str, Any]) -> Markup | None:
    """The second evaluation's scores, the first's as diamonds."""
    entries = summary.get("compared")
    if not entries:
        return None
    return whiskers([Dot(name, e["second"], e["first"] + e["low"], e["first"] + e["high"], (), e["first"])
                     for name, e in entries.items()])


def sources(summary: Mapping[str, Any], figures: Mapping[str, Any]) -> list[str]:
    """Where the published figures shown stand, one sentence each."""
    shown = [*summary.get("suites", {}), *(["math"] if "math" in summary else [])]
    return [f"{name}: {figures[name]['what']}, {figures[name]['source']}" for name in shown if name in figures]


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _span(pair: Any) -> str:
    return "" if not pair or pair[0] != pair[0] else f"{100 * pair[0]:.1f} – {100 * pair[1]:.1f}"
