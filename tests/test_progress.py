"""What the terminal and a log are shown."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from rl.progress import (
    PLAIN_COLUMNS,
    Progress,
    before_after_table,
    compact,
    duration,
    plain_line,
    short_score,
    sparkline,
    time_split,
)

METRICS = {
    "step": 12, "reward/mean": 0.61, "reward/math": 0.55, "reward/code": 0.71, "tokens/per_s": 4100.0,
    "time/step": 1.9, "time/generate": 1.1, "time/verify": 0.1, "time/learn": 0.76, "time/sync": 0.04,
    "policy/entropy": 0.43, "length/mean": 84.2,
}  # fmt: skip


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def plain_console() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=200)


def terminal(width: int = 100) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, _environ={"TERM": "xterm-256color"})


def text_of(renderable: object, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined]


def written(console: Console) -> str:
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_plain_line_says_what_matters() -> None:
    assert plain_line(12, 100, METRICS) == (
        "step  12/100 reward 0.61 (math .55 code .71) 4.1k tok/s 1.9 s [gen 55% learn 38% verify 5% sync 2%]"
    )


def test_a_plain_line_never_exceeds_its_columns() -> None:
    six = {f"reward/{d}": 0.5 for d in ("math", "code", "science", "logic", "simulation", "tabular")}
    line = plain_line(12, 100, METRICS | six)
    assert len(line) <= PLAIN_COLUMNS and "tab .50" in line and "1.9 s" in line
    assert len(plain_line(12_000, 100_000, METRICS | six, columns=60)) <= 60


def test_a_plain_line_of_supervised_training_has_the_loss() -> None:
    assert plain_line(3, 9, {"loss/sft": 1.25, "tokens/per_s": 950.0}) == "step 3/9 loss 1.250 950 tok/s"


def test_missing_and_undefined_metrics_are_not_shown() -> None:
    assert plain_line(1, 10, {"reward/mean": None, "tokens/per_s": float("nan")}) == "step  1/10"


def test_without_a_terminal_there_is_one_line_a_step_and_no_control_codes() -> None:
    console = plain_console()
    with Progress(100, "run [one]", console=console) as progress:
        progress.phase("starting the engine")
        progress.step(METRICS)
        progress.note("[saved] step 12")
    assert written(console).splitlines() == [
        "run [one]", "starting the engine", plain_line(12, 100, METRICS), "[saved] step 12",
    ]  # fmt: skip


def test_without_a_terminal_a_long_phase_tells_its_quarters() -> None:
    console, clock = plain_console(), Clock()
    with Progress(1, "t", console=console, clock=clock) as progress:
        progress.phase("evaluating")
        for done in range(0, 97, 8):
            clock.now += 1
            progress.advance(done, 96)
    assert written(console).splitlines()[2:] == [
        "evaluating: 24/96 (4 s)", "evaluating: 48/96 (7 s)", "evaluating: 72/96 (10 s)", "evaluating: 96/96 (13 s)",
    ]  # fmt: skip


def test_the_display_shows_phase_with_elapsed_time_then_the_step() -> None:
    console, clock = terminal(), Clock()
    progress = Progress(100, "raythink · [demo]", console=console, clock=clock)
    progress.phase("starting [vLLM]")
    clock.now += 7
    before = text_of(progress.render())
    assert "raythink · [demo]" in before and "starting [vLLM] · 7 s" in before and "step 0/100" in before
    progress.step(METRICS)
    after = text_of(progress.render())
    assert "starting" not in after
    for part in ("step 12/100", "reward", "0.61", "math", "code", "4.1k tok/s", "entropy 0.43", "learn 38%"):
        assert part in after
    assert "science" not in after  # a domain that was never seen takes no room
    assert "2 min 47 s left" in after  # 88 steps of 1.9 s


def test_the_display_of_an_evaluation_shows_how_far_it_is() -> None:
    progress = Progress(100, "t", console=terminal())
    progress.phase("evaluating")
    progress.advance(32, 96)
    assert "32/96" in text_of(progress.render())


@pytest.mark.parametrize("width", [40, 60, 80, 100, 160])
def test_the_display_fits_its_terminal(width: int) -> None:
    progress = Progress(100, "a title " * 30, console=terminal(width))
    for step in range(1, 40):
        progress.step(METRICS | {"step": step, "reward/simulation": step / 40})
    rows = text_of(progress.render(), width).splitlines()
    assert all(len(row) <= width for row in rows)
    assert sum(row.lstrip().startswith("simulation") or " simulation " in row for row in rows) == 1


def test_live_display_prints_notes_above_and_stops_on_an_error() -> None:
    console = terminal()
    with pytest.raises(RuntimeError, match="boom"), Progress(5, "title", console=console) as progress:
        assert progress.live
        progress.step({"reward/mean": 0.5})
        progress.note("checkpoint saved")
        raise RuntimeError("boom")
    assert "checkpoint saved" in written(console)
    assert written(console).count("\x1b[?25l") == written(console).count("\x1b[?25h") == 1  # the cursor is back


def test_a_dumb_terminal_gets_plain_lines() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "dumb"})
    assert not Progress(5, "title", console=console).live


def test_a_resumed_run_counts_on_from_its_step() -> None:
    clock = Clock()
    progress = Progress(100, "t", console=plain_console(), start_step=40, clock=clock)
    assert progress.eta_s is None
    clock.now += 3
    progress.step({})
    assert "step 41/100" in text_of(progress.render())
    assert progress.eta_s == pytest.approx(59 * 3)


def test_time_split_sums_to_one() -> None:
    split = time_split(METRICS)
    assert sum(split.values()) == pytest.approx(1.0) and split["generate"] == pytest.approx(0.55)
    assert time_split({"time/step": 2.0}) == {}


def test_small_formats() -> None:
    assert [compact(v) for v in (12, 4096, 2.5e6)] == ["12", "4.1k", "2.5M"]
    assert [duration(v) for v in (4.9, 125, 3780)] == ["4 s", "2 min 05 s", "1 h 03 min"]
    assert [short_score(v) for v in (0.554, 1.0, 0.0)] == [".55", "1.0", ".00"]
    assert sparkline([0, 0.5, 1, 7], 0, 1) == "▁▅██" and sparkline([3, 3], 3, 3) == "▁▁"


def test_before_and_after() -> None:
    summary = {
        "eval_before": {"overall": {"pass@1": 0.3, "tokens": 60.4}, "domains": {"math": {"pass@1": 0.5, "tokens": 50}}},
        "eval_after": {
            "overall": {"pass@1": 0.456, "tokens": 80},
            "domains": {"math": {"pass@1": 0.4, "tokens": 70}, "code": {"pass@1": 0.2, "tokens": 90}},
        },
    }
    rows = [re.split(r"\s{2,}", line.strip()) for line in text_of(before_after_table(summary)).splitlines()]
    assert ["math", "50.0 %", "40.0 %", "-10.0", "50", "70"] in rows
    assert ["code", "–", "20.0 %", "–", "–", "90"] in rows
    assert ["overall", "30.0 %", "45.6 %", "+15.6", "60", "80"] in rows


def test_before_and_after_of_an_interrupted_run() -> None:
    assert "overall" in text_of(before_after_table({"eval_before": None}))
