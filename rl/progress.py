"""What a run looks like while it runs: a live display on a terminal, one plain line a step anywhere else.

    with Progress(total_steps=100, title="starter · http://127.0.0.1:8265") as progress:
        progress.phase("starting vLLM engine (about 15 s)")
        progress.step(metrics)          # what MetricsLog records; names that are absent are not shown
        progress.phase("evaluating"); progress.advance(32, 96)
        progress.note("checkpoint: step 20")
    console.print(before_after_table(summary))

Nothing here changes what is trained: a display that is never looked at costs one line of text a step.
"""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from actors.messages import DOMAINS

PHASES = ("generate", "verify", "learn", "sync", "idle")
PHASE_STYLES = {"generate": "blue", "verify": "yellow", "learn": "magenta", "sync": "cyan", "idle": "bright_black"}
SHORT = {"generate": "gen", "science": "sci", "logic": "log", "simulation": "sim", "tabular": "tab"}
PLAIN_COLUMNS = 100
HISTORY = 30
BLOCKS = "▁▂▃▄▅▆▇█"


class Progress:
    """Context manager; `console` and `clock` (seconds, monotonic) are for tests and for other destinations.

    `start_step` is the last step already done (a resumed run). Text given to `title`, `phase` and `note` is shown
    as it is: no markup.
    """

    def __init__(
        self,
        total_steps: int,
        title: str,
        *,
        console: Console | None = None,
        start_step: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total, self._title, self._done = total_steps, title, start_step
        self._console = console or default_console()
        self._clock = clock
        self._history: dict[str, deque[float]] = {}
        self._metrics: Mapping[str, Any] = {}
        self._step_seconds: deque[float] = deque(maxlen=20)
        self._phase: str | None = None
        self._phase_started = self._started = self._last_step_at = clock()
        self._part: tuple[int, int] | None = None
        self._quarter = 0
        self._spinner = Spinner("dots", style="cyan")
        self._live: Live | None = None

    @property
    def live(self) -> bool:
        """Whether the display is redrawn in place (a terminal that can) or printed line by line."""
        return self._console.is_terminal and not self._console.is_dumb_terminal

    def __enter__(self) -> Progress:
        self._started = self._last_step_at = self._phase_started = self._clock()
        if self.live:
            self._live = Live(get_renderable=self.render, console=self._console, refresh_per_second=8)
            self._live.start()
        else:
            self._print(self._title)
        return self

    def __exit__(self, *exc: object) -> None:
        self._phase = None
        if self._live is not None:
            self._live.stop()
            self._live = None

    def phase(self, text: str | None) -> None:
        """Say what is going on outside of the steps, until the next `step` (or `phase(None)`)."""
        self._phase, self._part, self._quarter = text, None, 0
        self._phase_started = self._last_step_at = self._clock()
        if text is not None and self._live is None:
            self._print(text)

    def advance(self, done: int, total: int) -> None:
        """How far the present phase is. Printed line by line, only the quarters are told."""
        self._part = (done, total)
        quarter = 4 * done // max(total, 1)
        if self._live is None and quarter > self._quarter:
            seconds = duration(self._clock() - self._phase_started)
            self._print(f"{self._phase or 'progress'}: {done}/{total} ({seconds})")
        self._quarter = max(quarter, self._quarter)

    def step(self, metrics: Mapping[str, Any]) -> None:
        """Show one finished step. `metrics["step"]` says which one; without it, the one after the last."""
        now = self._clock()
        self._done = int(metrics.get("step", self._done + 1))
        self._step_seconds.append(_number(metrics, "time/step") or now - self._last_step_at)
        self._last_step_at, self._metrics, self._phase = now, metrics, None
        for name in metrics:
            value = _number(metrics, name)
            if value is not None:
                self._history.setdefault(name, deque(maxlen=HISTORY)).append(value)
        if self._live is None:
            self._print(plain_line(self._done, self._total, metrics))

    def note(self, text: str) -> None:
        """Print a line above the display."""
        self._print(text)

    @property
    def eta_s(self) -> float | None:
        """Seconds to the last step at the pace of the latest 20, None before the first."""
        if not self._step_seconds:
            return None
        return max(self._total - self._done, 0) * sum(self._step_seconds) / len(self._step_seconds)

    def render(self) -> RenderableType:
        """The display as it stands now."""
        parts: list[RenderableType] = [Text(self._title, style="bold", no_wrap=True, overflow="ellipsis")]
        parts.append(self._bar_line())
        if self._metrics:
            parts += [self._scores(), self._numbers()]
            split = time_split(self._metrics)
            if split:
                parts += _split_lines(split, min(self._console.width, PLAIN_COLUMNS))
        if self._phase is not None:
            parts.append(self._phase_line())
        return Group(*parts)

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _bar_line(self) -> RenderableType:
        eta = self.eta_s
        clock = f"{duration(self._clock() - self._started)} elapsed"
        if eta is not None and self._done < self._total:
            clock += f" · {duration(eta)} left"
        width = min(40, max(self._console.width - 50, 8))
        return _bar_row(f"step {self._done}/{self._total}", self._done, self._total, width, Text(clock, style="dim"))

    def _phase_line(self) -> RenderableType:
        text = f"{self._phase} · {duration(self._clock() - self._phase_started)}"
        if self._part is None:
            self._spinner.update(text=Text(text))
            return self._spinner
        done, total = self._part
        return _bar_row(text, done, total, 16, Text(f"{done}/{total}"))

    def _scores(self) -> RenderableType:
        """A sparkline for the reward (the loss, where there is no reward), then one for each domain seen so far."""
        grid = Table.grid(padding=(0, 2))
        cells = [(f"reward/{d}", d) for d in DOMAINS if f"reward/{d}" in self._history]
        columns = 2 if self._console.width >= 80 and len(cells) > 1 else 1
        whole = min(self._console.width, PLAIN_COLUMNS)
        heads = [(name, name.split("/")[0]) for name in ("reward/mean", "loss/sft") if name in self._history]
        rows = math.ceil(len(cells) / columns)
        for row in range(rows):
            grid.add_row(*(self._score(*cells[i], "", whole // columns - 2) for i in range(row, len(cells), rows)))
        return Group(*(self._score(*head, "bold", whole) for head in heads), grid)

    def _score(self, name: str, label: str, style: str, width: int) -> Text:
        values = self._history[name]
        text = Text.assemble((f"{label:<11}{values[-1]:>5.2f}  ", style or "default"), no_wrap=True)
        low, high = min(values), max(values)
        if name.startswith("reward/"):
            low, high = 0.0, 1.0
            filled = round(10 * min(max(values[-1], 0.0), 1.0))
            text.append("━" * filled, style="green").append("━" * (10 - filled), style="bright_black").append("  ")
        latest = list(values)[-max(min(HISTORY, width - len(text)), 0) :]
        return text.append(sparkline(latest, low, high), "cyan") if width > len(text) else text

    def _numbers(self) -> Text:
        shown = (
            ("tokens/per_s", lambda v: f"{compact(v)} tok/s"),
            ("length/mean", lambda v: f"{v:.0f} tokens an answer"),
            ("policy/entropy", lambda v: f"entropy {v:.2f}"),
            ("lr", lambda v: f"lr {v:.1e}"),
            ("time/step", lambda v: f"{v:.1f} s a step"),
        )
        values = ((_number(self._metrics, name), form) for name, form in shown)
        return Text(" · ".join(form(v) for v, form in values if v is not None))


def default_console() -> Console:
    """Standard output; standard error where only that one is a terminal (`make train | tee log`)."""
    return Console(stderr=not sys.stdout.isatty() and sys.stderr.isatty())


def plain_line(step: int, total: int, metrics: Mapping[str, Any], columns: int = PLAIN_COLUMNS) -> str:
    """One step on one line of at most `columns` characters; what does not fit is left out, the time split first."""
    head = f"step {step:>{len(str(total))}}/{total}"
    reward, loss = _number(metrics, "reward/mean"), _number(metrics, "loss/sft")
    if reward is not None:
        head += f" reward {reward:.2f}"
    elif loss is not None:
        head += f" loss {loss:.3f}"
    speed, seconds = _number(metrics, "tokens/per_s"), _number(metrics, "time/step")
    tail = f" {compact(speed)} tok/s" if speed is not None else ""
    tail += f" {seconds:.1f} s" if seconds is not None else ""
    domains = [(d, _number(metrics, f"reward/{d}")) for d in DOMAINS]
    scores = [f"{SHORT.get(d, d)} {short_score(v)}" for d, v in domains if v is not None]
    middle = _fitting(scores, columns - len(head) - len(tail), "()")
    split = sorted(time_split(metrics).items(), key=lambda part: -part[1])
    shares = [f"{SHORT.get(name, name)} {share:.0%}" for name, share in split if share >= 0.01]
    return head + middle + tail + _fitting(shares, columns - len(head) - len(middle) - len(tail), "[]")


def time_split(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The share of each phase in the time accounted for, summing to 1; {} where no time was measured."""
    seconds = {phase: _number(metrics, f"time/{phase}") or 0.0 for phase in PHASES}
    whole = sum(seconds.values())
    return {phase: value / whole for phase, value in seconds.items()} if whole > 0 else {}


def sparkline(values: Iterable[float], low: float = 0.0, high: float = 1.0) -> str:
    """One block character a value, from `low` (lowest block) to `high` (full block); values outside are clamped."""
    span = (high - low) or 1.0
    return "".join(BLOCKS[round(min(max((v - low) / span, 0.0), 1.0) * (len(BLOCKS) - 1))] for v in values)


def compact(number: float) -> str:
    """4096 -> "4.1k", 2_500_000 -> "2.5M"."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.1f}{suffix}"
    return f"{number:.0f}"


def duration(seconds: float) -> str:
    """4 s, 2 min 5 s, 1 h 03 min."""
    whole = max(int(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def short_score(value: float) -> str:
    """A score in few columns: .55, 1.0."""
    text = f"{value:.2f}"
    return text[1:] if text.startswith("0.") else f"{value:.1f}"


def before_after_table(summary: Mapping[str, Any]) -> Table:
    """The two evaluations of summary.json side by side; what was not measured shows as a dash."""
    table = Table(title="pass@1 before and after training", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("domain", no_wrap=True)
    for name in ("before", "after", "points", "tokens before", "tokens after"):
        table.add_column(name, justify="right")
    before, after = summary.get("eval_before") or {}, summary.get("eval_after") or {}
    domains_before, domains_after = before.get("domains") or {}, after.get("domains") or {}
    names = [d for d in DOMAINS if d in domains_before or d in domains_after]
    names += sorted({*domains_before, *domains_after} - set(names))
    for name in names:
        table.add_row(escape(name), *_compared(domains_before.get(name) or {}, domains_after.get(name) or {}))
    table.add_section()
    overall = _compared(before.get("overall") or {}, after.get("overall") or {})
    table.add_row("overall", *overall, style="bold")
    return table


def _compared(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[RenderableType]:
    was, now = _number(before, "pass@1"), _number(after, "pass@1")
    change = Text("–", style="dim")
    if was is not None and now is not None:
        points = round(100 * (now - was), 1) + 0.0  # + 0.0: no "-0.0"
        change = Text(f"{points:+.1f}", style="green" if points > 0 else "red" if points < 0 else "dim")
    scores = ["–" if v is None else f"{100 * v:.1f} %" for v in (was, now)]
    tokens = ["–" if v is None else f"{v:.0f}" for v in (_number(before, "tokens"), _number(after, "tokens"))]
    return [*scores, change, *tokens]


def _bar_row(text: str, done: int, total: int, width: int, right: Text) -> RenderableType:
    bar = ProgressBar(total=max(total, 1), completed=done, width=width, complete_style="green", finished_style="green")
    right.no_wrap = True
    row = Table.grid(padding=(0, 1))
    row.add_row(Text(text, no_wrap=True, overflow="ellipsis"), bar, right)
    return row


def _split_lines(split: Mapping[str, float], width: int) -> list[RenderableType]:
    bar, legend = Text(no_wrap=True), Text(no_wrap=True, overflow="ellipsis")
    filled, share_so_far = 0, 0.0
    for name, share in split.items():
        share_so_far += share
        cells = round(share_so_far * width) - filled  # rounding the sums keeps the bar `width` long
        bar.append("█" * cells, style=PHASE_STYLES[name])
        filled += cells
        label = name if width >= 72 else SHORT.get(name, name)
        legend.append("■ ", style=PHASE_STYLES[name]).append(f"{label} {share:.0%}  ")
    return [bar, legend]


def _fitting(parts: list[str], room: int, brackets: str) -> str:
    """As many of `parts` as fit in `room`, in brackets and after a space; "" if none does."""
    for count in range(len(parts), 0, -1):
        text = f" {brackets[0]}{' '.join(parts[:count])}{brackets[1]}"
        if len(text) <= room:
            return text
    return ""


def _number(metrics: Mapping[str, Any], name: str) -> float | None:
    value = metrics.get(name)
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
