"""Which charts a report has: a table of them, drawn for the metrics that were measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from markupsafe import Markup

from actors.messages import DOMAINS
from rl.report.series import Series, series, stack
from rl.report.svg import Line, line_chart, number, stacked_chart

PHASES = ("time/generate", "time/verify", "time/learn", "time/sync", "time/idle")
GROUPS = ("groups/trained", "groups/filtered", "groups/stale", "groups/failed")
COLOURS = {
    "time/generate": "--c0", "time/verify": "--c3", "time/learn": "--c4", "time/sync": "--c2", "time/idle": "--grey",
    "groups/trained": "--c2", "groups/filtered": "--grey", "groups/stale": "--c3", "groups/failed": "--c5",
}  # fmt: skip
WIDE = (430, 205)
DOMAIN_COLOURS = {domain: f"--c{i}" for i, domain in enumerate(DOMAINS)}


@dataclass(frozen=True)
class Spec:
    """One chart: what it shows and how. `stacked` puts the metrics on top of each other."""

    title: str
    names: tuple[str, ...]
    about: str = ""
    stacked: bool = False
    log: bool = False
    from_zero: bool = False
    unit_range: bool = False
    wide: bool = False
    exact: bool = False


@dataclass(frozen=True)
class Chart:
    """A chart drawn: `svg` is markup; `latest` the last smoothed value; `legend` of (label, CSS property)."""

    title: str
    about: str
    svg: Markup
    latest: str
    legend: tuple[tuple[str, str], ...] = ()
    wide: bool = False


@dataclass(frozen=True)
class Section:
    title: str
    about: str
    charts: tuple[Chart, ...]
    constant: str = ""


SECTIONS: tuple[tuple[str, str, tuple[Spec, ...]], ...] = (
    ("Reward", "Mean score of the answers of each step. By domain, the grey line is the mean of all.", (
        Spec("all domains", ("reward/mean", "eval/pass@1"), "", unit_range=True, wide=True),
        Spec("groups a step", GROUPS, "filtered: all answers score alike", stacked=True, wide=True),
        Spec("training and validation loss", ("loss/sft", "loss/val"), "nats a token", wide=True),
    )),
    ("Time", "", (
        Spec("seconds a step", PHASES, "", stacked=True, wide=True),
        Spec("tokens per second", ("tokens/per_s",), "", from_zero=True, wide=True),
        Spec("checkpoints", ("time/save", "checkpoint/write_s"), "seconds: waited for, and written beside the steps",
             from_zero=True),
    )),
    ("Answers", "", (
        Spec("mean length", ("length/mean",), "tokens", from_zero=True),
        Spec("truncated", ("length/truncated",), "share that hit the token limit", from_zero=True),
        Spec("entropy", ("policy/entropy",), "nats a token", from_zero=True),
    )),
    ("Optimisation", "", (
        Spec("mismatch KL", ("policy/mismatch_kl",), "engine against learner, log scale", log=True),
        Spec("gradient norm", ("policy/grad_norm",), "before clipping", from_zero=True),
        Spec("clipped", ("policy/clip_fraction",), "share of tokens", from_zero=True),
        Spec("policy loss", ("loss/policy",)),
        Spec("learning rate", ("lr",), "", from_zero=True, exact=True),
    )),
    ("Health", "", (
        Spec("staleness", ("staleness/mean", "staleness/tokens", "staleness/max"), "policy versions", from_zero=True),
        Spec("verifier errors", ("verdict/error_rate",), "share of verdicts", from_zero=True),
    )),
)  # fmt: skip
EVALUATIONS = ("Learning", "By domain: pass@1 in the course of training, and in grey the mean of all.")
UNDRAWN = {"step", "policy_version", "time/step", "tokens/generated"}


def draw(metrics: Sequence[Mapping[str, Any]]) -> list[Section]:
    """The sections that have something to show. Metrics that no chart above names come last, by name."""
    sections = []
    used = set(UNDRAWN)
    for title, about, specs in SECTIONS:
        sections.append(_section(title, about, specs, metrics))
        used.update(name for spec in specs for name in spec.names)
        if title == "Reward":
            domains, names = _domain_charts(metrics)
            used.update(names)
            if not any(name.startswith("reward/") for row in metrics for name in row):
                title, about = EVALUATIONS  # supervised training has no rewards
            sections[-1] = Section(title, about, sections[-1].charts + domains, sections[-1].constant)
    others = sorted({name for row in metrics for name in row} - used)
    sections.append(_section("Other", "", tuple(Spec(name, (name,)) for name in others), metrics))
    return [section for section in sections if section.charts or section.constant]


def _section(title: str, about: str, specs: Sequence[Spec], metrics: Sequence[Mapping[str, Any]]) -> Section:
    charts, constants = [], []
    for spec in specs:
        if spec.stacked:
            chart = _stacked(spec, metrics)
        else:
            measured = (series(metrics, name, exact=spec.exact) for name in spec.names)
            curves = [curve for curve in measured if curve is not None]
            # A flat line says less than a sentence does.
            flat = [c for c in curves if len(c.values) > 1 and np.all(c.values == c.values[0])]
            if curves and len(flat) == len(curves):
                constants += [f"{c.name} = {number(c.first)}" for c in flat]
                continue
            chart = _lines(spec, curves, metrics)
        charts += [chart] if chart is not None else []
    constant = f"The same at every step: {', '.join(constants)}." if constants else ""
    return Section(title, about, tuple(charts), constant)


def _lines(spec: Spec, curves: Sequence[Series | None], metrics: Sequence[Mapping[str, Any]]) -> Chart | None:
    found = [curve for curve in curves if curve is not None]
    if not found:
        return None
    lines = [Line(curve.name, curve, f"--c{spec.names.index(curve.name)}") for curve in found]
    drawn = line_chart(
        lines,
        width=WIDE[0] if spec.wide else 360,
        height=WIDE[1] if spec.wide else 180,
        y_range=(0.0, 1.0) if spec.unit_range else None,
        from_zero=spec.from_zero,
        log=spec.log,
        x_range=_span(metrics),
    )
    legend = tuple((line.label, line.colour) for line in lines) if len(spec.names) > 1 else ()
    return Chart(spec.title, spec.about, Markup(drawn), _change(found[0], spec.unit_range), legend, spec.wide)


def _stacked(spec: Spec, metrics: Sequence[Mapping[str, Any]]) -> Chart | None:
    steps, columns = stack(metrics, spec.names)
    if not columns:
        return None
    if len(columns) == 1:  # a stack of one is a line
        only = tuple(columns)
        about = only[0].split("/")[1]
        return _lines(replace(spec, names=only, about=about, from_zero=True), [series(metrics, only[0])], metrics)
    size = WIDE if spec.wide else (360, 180)
    drawn = stacked_chart(steps, columns, COLOURS, width=size[0], height=size[1], x_range=_span(metrics))
    whole = sum(values.sum() for values in columns.values())
    legend = tuple((f"{n.split('/')[1]} {_share(v.sum() / whole)}", COLOURS[n]) for n, v in columns.items())
    mean = number(float(whole / len(steps)))
    return Chart(spec.title, spec.about, Markup(drawn), f"mean {mean}", legend, spec.wide)


def _domain_charts(metrics: Sequence[Mapping[str, Any]]) -> tuple[tuple[Chart, ...], set[str]]:
    """One chart a domain, all on the same scale, the mean of all in grey: reward, and evaluations where present."""
    overall = series(metrics, "reward/mean") or series(metrics, "eval/pass@1")
    charts: list[Chart] = []
    used: set[str] = set()
    for domain, colour in DOMAIN_COLOURS.items():
        found = [(label, series(metrics, name)) for label, name in _domain_names(domain)]
        used.update(name for _, name in _domain_names(domain))
        lines = [Line(label, curve, colour) for label, curve in found if curve is not None]
        if not lines:
            continue
        drawn = line_chart(lines, width=360, height=150, x_range=_span(metrics), y_range=(0.0, 1.0), behind=overall)
        charts.append(Chart(domain, "", Markup(drawn), _change(lines[0].series, unit_range=True)))
    return tuple(charts), used


def _span(metrics: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """All charts share one step axis, so that they can be read against each other."""
    return metrics[0]["step"], metrics[-1]["step"]


def _domain_names(domain: str) -> tuple[tuple[str, str], ...]:
    return (("reward", f"reward/{domain}"), ("pass@1", f"eval/pass@1/{domain}"))


def _share(share: float) -> str:
    return f"{share:.0%}" if share >= 0.005 else "< 1%"


def _change(curve: Series, unit_range: bool) -> str:
    first, last = (f"{v:.2f}" if unit_range else number(v) for v in (curve.first, curve.last))
    return first if len(curve.values) == 1 else f"{first} → {last}"
