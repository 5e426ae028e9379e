"""What an evaluation prints at its end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from rl.evaluation.compare import said


def show(summary: Mapping[str, Any], folder: Path, console: Console | None = None) -> None:
    """The tables of what the summary holds, and where the rest is."""
    console = console or Console()
    for table in tables(summary):
        console.print(table)
    if macro := summary.get("safety"):
        value = "-" if macro["macro"] is None else f"{macro['macro']:.1%}"
        left = f" (without {', '.join(macro['missing'])})" if macro["missing"] else ""
        console.print(f"safety macro: {value}{left}")
    if of_math := summary.get("math"):
        console.print(f"math micro-average over {of_math['problems']} problems: {' in '.join(_score(of_math))}")
    console.print(f"report:      {folder / 'report.html'}", soft_wrap=True)


def tables(summary: Mapping[str, Any]) -> list[Table]:
    found = []
    if "suites" in summary:
        found.append(_suites(summary))
    found += [_ablation(name, arms) for name, arms in summary.get("ablation", {}).items()]
    if "compared" in summary:
        found.append(_compared(summary))
    return found


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for i, name in enumerate(columns):
        table.add_column(name, justify="right" if i else "left", no_wrap=True)
    return table


def _suites(summary: Mapping[str, Any]) -> Table:
    columns = ("n", "pass@1", "95 %", "±", "pass@8", "maj@8", "tokens", "cut", "err")
    table = _table(f"pass@1 of {summary['model']}", "suite", *columns)
    for name, entry in summary["suites"].items():
        table.add_row(name, *_cells(entry))
        for domain, scores in entry.get("domains", {}).items():
            table.add_row(f"  {domain}", *_cells(scores), style="dim")
    return table


def _cells(entry: Mapping[str, Any]) -> list[str]:
    known = [f"{100 * entry[k]:.1f}" if k in entry else "-" for k in ("pass@8", "maj@8")]
    return [str(entry["problems"]), *_score(entry), f"{100 * entry['spread']:.1f}", *known, f"{entry['tokens']:.0f}",
            f"{entry['truncated']:.1%}", str(entry["errors"])]


def _score(entry: Mapping[str, Any]) -> tuple[str, str]:
    """The score and its interval, in per cent."""
    if entry.get("pass@1") is None:
        return "-", "-"
    low, high = entry["interval"]
    return f"{100 * entry['pass@1']:.1f} %", f"{100 * low:.1f}–{100 * high:.1f}"


def _ablation(name: str, arms: Mapping[str, Any]) -> Table:
    columns = ("pass@1", "95 %", "points", "p", "tokens", "change", "all", "err")
    table = _table(f"scaffold on {name}", "", *columns)
    for arm, entry in arms.items():
        against = entry["against_plain"]
        p = "<0.001" if against["p"] < 1e-3 else f"{against['p']:.2g}"
        beside = ["", ""] if arm == "plain" else [f"{100 * against['difference']:+.1f}", p]
        change = "" if arm == "plain" else f"{entry['tokens_change']:+.1%}"
        table.add_row(arm, *_score(entry), *beside, f"{entry['tokens']:.0f}", change, f"{entry['all_tokens']:.0f}",
                      str(entry["errors"]))
    return table


def _compared(summary: Mapping[str, Any]) -> Table:
    first, second = summary["compare"]
    table = _table(f"{second} against {first}", "suite", "problems", "first", "second", "points (95 %)", "")
    for name, entry in summary["compared"].items():
        points = f"{100 * entry['difference']:+.1f} ({100 * entry['low']:+.1f}–{100 * entry['high']:+.1f})"
        table.add_row(name, str(entry["problems"]), f"{entry['first']:.1%}", f"{entry['second']:.1%}", points,
                      said(entry))
    return table
