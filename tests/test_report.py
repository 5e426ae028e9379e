"""report.html: whatever a run left is on one self-contained page, and nothing a model wrote is markup there."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from conf.errors import UserError
from rl.report import describe_machine, write_report
from rl.report.__main__ import main
from rl.report.charts import draw
from rl.report.page import comparison
from rl.report.samples import MAX_ANSWER, choose, clip
from rl.report.series import MAX_POINTS, binned, gaussian_mean, series, stack
from rl.report.svg import Line, line_chart, log_ticks, number, stacked_chart, ticks

ATTACK = "<script>alert('x')</script><img src=x onerror=alert(1)>"
SUMMARY = {
    "run": "demo", "recipe": "starter", "model": "assets/starter", "steps": 20, "wall_s": 125.0,
    "eval_before": {"overall": {"pass@1": 0.3, "tokens": 60, "pass@8": 0.5}, "domains": {"math": {"pass@1": 0.25}}},
    "eval_after": {"overall": {"pass@1": 0.6, "tokens": 80, "pass@8": 0.75}, "domains": {"math": {"pass@1": 0.75}}},
    "interrupted": False, "policy_version": 20, "checkpoint": "checkpoints/step_20/hf", "machine": "2 CPU cores",
}  # fmt: skip


def history(steps: int = 20) -> list[dict[str, Any]]:
    return [
        {
            "step": s, "reward/mean": s / 40, "reward/math": s / 30, "reward/code": None, "lr": s,
            "policy/mismatch_kl": 1e-5 * s, "policy/grad_norm": 0.5 + 0.01 * s, "policy/entropy": 1 / s,
            "length/mean": 60.0 + s, "groups/trained": 20,
            "groups/filtered": s % 5, "time/generate": 1.0, "time/learn": 0.5, "staleness/max": 0, "custom/thing": s,
        }
        for s in range(1, steps + 1)
    ]  # fmt: skip


def sample(problem_id: str, status: str, **more: Any) -> dict[str, Any]:
    return {
        "problem_id": problem_id, "domain": "math", "prompt": "2 + 2?", "completion": "<think>add</think>4",
        "status": status, "score": float(status == "correct"), "reason": "because", "tokens": 9,
        "finish_reason": "stop", "policy_version": 0,
    } | more  # fmt: skip


def write_run(folder: Path, *, metrics: list[dict[str, Any]] | None = None, **samples: list[dict[str, Any]]) -> Path:
    (folder / "samples").mkdir(parents=True)
    (folder / "config.yaml").write_text("mode: train\nseed: 3\nmodel:\n  path: assets/starter\n")
    rows = history() if metrics is None else metrics
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "summary.json").write_text(json.dumps(SUMMARY))
    for when in ("before", "after"):
        rows = samples.get(when) or [sample("p1", "correct" if when == "after" else "incorrect")]
        parquet.write_table(pa.Table.from_pylist(rows), folder / "samples" / f"{when}.parquet")
    return folder


class Page(HTMLParser):
    """The tags, the links out, and the visible text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.text = ""
        self.feed(html)
        self.text = re.sub(r"\s+", " ", self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.text += data


def read(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def test_a_whole_run_is_on_the_page(tmp_path: Path) -> None:
    path = write_report(write_run(tmp_path / "demo"))
    assert path == tmp_path / "demo" / "report.html"
    page = read(path)
    for part in (
        "demo", "assets/starter", "2 min 05 s", "2 CPU cores", "25.0 % 75.0 % +50.0", "30.0 % 60.0 % +30.0",
        "overall, pass@8 50.0 % 75.0 % +25.0", "mismatch KL", "gradient norm", "mean length", "custom/thing",
        "staleness/max = 0", "wrong → right", "seed: 3", "checkpoints/step_20/hf",
    ):  # fmt: skip
        assert part in page.text, part
    assert "not there" not in page.text and "interrupted" not in page.text
    assert not list(path.parent.glob("*.tmp"))


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    html = write_report(write_run(tmp_path / "demo")).read_text()
    page = Page(html)
    assert page.links == [] and "script" not in page.tags and "link" not in page.tags
    assert "url(" not in html and "@import" not in html and "://" not in html
    assert "prefers-color-scheme: dark" in html and 'name="viewport"' in html


def test_what_a_model_wrote_is_text(tmp_path: Path) -> None:
    attacked = {key: ATTACK for key in ("domain", "prompt", "completion", "reason")}
    run = write_run(
        tmp_path / "demo",
        metrics=[{"step": s, ATTACK: s} for s in (1, 2, 3)],
        before=[sample("p1", "incorrect", **attacked)],
        after=[sample("p1", "correct", **attacked)],
    )
    (run / "config.yaml").write_text(f"mode: {json.dumps(ATTACK)}\n")
    (run / "summary.json").write_text(json.dumps(SUMMARY | {"run": ATTACK, "model": ATTACK, "checkpoint": ATTACK}))
    page = read(write_report(run))
    assert "script" not in page.tags and "img" not in page.tags and page.handlers == []
    assert page.text.count("<script>alert") >= 8  # it is shown, as what it is


def test_charts_are_well_formed_and_finite(tmp_path: Path) -> None:
    html = write_report(write_run(tmp_path / "demo")).read_text()
    drawings = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    assert len(drawings) >= 8
    for drawing in drawings:
        ElementTree.fromstring(drawing)
        assert "nan" not in drawing and "inf" not in drawing.replace("info", "")


@pytest.mark.parametrize(
    "left", ["config.yaml", "metrics.jsonl", "summary.json", "before.parquet", "after.parquet", ""]
)
@pytest.mark.parametrize("damage", ["missing", "damaged", "empty"])
def test_what_is_missing_or_damaged_is_said(tmp_path: Path, left: str, damage: str) -> None:
    run = write_run(tmp_path / "demo")
    files = [path for path in run.rglob("*") if path.is_file() and (path.name == left or not left)]
    assert files
    for path in files:
        path.unlink()
        if damage != "missing":
            path.write_bytes(b"" if damage == "empty" else b"\xff{\n[: bad\n}\n")
    text = read(write_report(run)).text
    for path in files:
        harmless = damage == "empty" and path.name in ("config.yaml", "metrics.jsonl")  # nothing yet is no damage
        said = f"{path.name} is not there" if damage == "missing" else f"{path.name} cannot be read"
        assert (said in text) is not harmless, (said, text[:400])
    if left in ("summary.json", ""):
        assert "has not finished, or was stopped" in text


def test_an_interrupted_run_says_so(tmp_path: Path) -> None:
    run = write_run(tmp_path / "demo", metrics=history(2))
    (run / "summary.json").write_text(json.dumps({"run": "demo", "interrupted": True, "eval_before": None}))
    text = read(write_report(run)).text
    assert "The run was interrupted" in text and re.search(r"steps ?2\b", text)


def test_a_torn_metrics_line_costs_only_that_line(tmp_path: Path) -> None:
    run = write_run(tmp_path / "demo")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 21, "rew')
    text = read(write_report(run)).text
    assert "cannot be read" not in text and "mean length" in text


def test_supervised_runs_have_their_own_charts(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"step": s, "loss/sft": 3 / s, "lr": 1e-3, "tokens/per_s": 9.0 * s} for s in range(1, 31)
    ]
    for row in rows[9::10]:
        row |= {"loss/val": 0.4, "eval/pass@1": 0.5, "eval/pass@1/math": row["step"] / 40}
    sections = {section.title: section for section in draw(rows)}
    assert set(sections) == {"Learning", "Time", "Optimisation"}
    assert [chart.title for chart in sections["Learning"].charts] == ["training and validation loss", "math"]
    assert sections["Learning"].constant == "The same at every step: eval/pass@1 = 0.5."
    assert sections["Optimisation"].constant == "The same at every step: lr = 0.001."


def test_a_single_step_and_no_step_draw() -> None:
    assert draw([]) == []
    titles = [chart.title for section in draw(history(1)) for chart in section.charts]
    assert "all domains" in titles and "mismatch KL" in titles


def test_a_long_run_stays_small(tmp_path: Path) -> None:
    run = write_run(
        tmp_path / "demo",
        metrics=history(4000),
        before=[sample(f"p{i}", "incorrect", completion="a" * 10**5) for i in range(30)],
    )
    assert write_report(run).stat().st_size < 500_000


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(write_run(tmp_path / "demo"))]) == 0
    assert capsys.readouterr().out.strip().endswith("report.html")
    assert main([str(tmp_path / "nowhere")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("raythink: error: ") and error.count("\n") == 1 and "is not a folder" in error
    assert main([]) == 2 and main(["--help"]) == 0
    with pytest.raises(UserError):
        write_report(tmp_path / "nowhere")


# --- which answers are shown


def test_problems_that_became_right_are_shown_first_at_most_two_a_domain() -> None:
    outcomes = {"a": "cc", "b": "ic", "c": "ic", "d": "ic", "e": "ci", "f": "ii", "g": "ii", "h": "ec"}
    words = {"c": "correct", "i": "incorrect", "e": "error"}
    before = [sample(key, words[pair[0]], prompt=key) for key, pair in outcomes.items()]
    after = [sample(key, words[pair[1]], prompt=key) for key, pair in outcomes.items()]
    shown, counts = choose(before, after)
    assert [pair.prompt for pair in shown] == ["b", "c", "e", "f"]
    assert counts == {"wrong → right": 3, "right → right": 1, "right → wrong": 1, "wrong → wrong": 2}


def test_only_problems_sampled_both_times_are_compared_and_by_their_first_sample() -> None:
    before = [sample("a", "incorrect"), sample("b", "correct"), sample("a", "correct")]
    shown, counts = choose(before, [sample("a", "correct", completion="<think>mull"), sample("z", "correct")])
    assert counts == {"wrong → right": 1} and len(shown) == 1
    assert shown[0].before is not None and shown[0].before.thinking == "<think>add</think>"
    assert shown[0].before.text == "4"
    assert shown[0].after is not None and shown[0].after.text == "<think>mull"


def test_one_file_alone_is_shown_without_a_comparison() -> None:
    shown, counts = choose([sample("a", "incorrect")], [])
    assert counts == {} and shown[0].after is None and shown[0].outcome == ""


def test_long_text_keeps_its_two_ends() -> None:
    cut = clip("a" * MAX_ANSWER + "b" * MAX_ANSWER, MAX_ANSWER)
    assert cut.startswith("a") and cut.endswith("b") and f"{MAX_ANSWER:,} characters left out" in cut
    assert clip("short", MAX_ANSWER) == "short"


def test_comparison_orders_domains_and_pass_at_k() -> None:
    overall_before = {"pass@1": 0.1, "pass@16": 0.2, "pass@4": 0.15}
    summary = {
        "eval_before": {"overall": overall_before, "domains": {"tabular": {}, "math": {}}},
        "eval_after": {"domains": {"zoo": {"pass@1": float("nan")}, "code": {"pass@1": 1.0}}},
    }  # fmt: skip
    domains, overall = comparison(summary)
    assert [row.label for row in domains] == ["math", "code", "tabular", "zoo"]
    assert [row.label for row in overall] == ["overall", "overall, pass@4", "overall, pass@16"]
    assert domains[3].after is None and domains[1].after == 1.0 and overall[0].points is None


# --- curves and drawing


def test_series_skips_gaps_and_is_smoothed() -> None:
    noisy = [{"step": s, "x": (-1.0) ** s if s % 7 else None} for s in range(1, 101)]
    curve = series(noisy, "x")
    assert curve is not None and len(curve.steps) == 86 and not curve.sparse
    assert np.abs(curve.smooth[5:-5]).max() < 0.5 < np.abs(curve.values).min()
    assert series(noisy, "y") is None


def test_series_measured_now_and_then_is_left_as_it_is() -> None:
    curve = series([{"step": s} | ({"x": float(s)} if s % 10 == 0 else {}) for s in range(100)], "x")
    assert curve is not None and curve.sparse and np.array_equal(curve.smooth, curve.values)


def test_gaussian_mean_keeps_a_constant_and_the_length() -> None:
    assert np.allclose(gaussian_mean(np.full(7, 3.0), width=4.0), 3.0)
    assert len(gaussian_mean(np.arange(2.0), width=5.0)) == 2


def test_bins_keep_the_mean_of_their_values() -> None:
    values = np.arange(1000.0)
    assert len(binned(values)) == MAX_POINTS and binned(values)[0] == values[: 1000 // MAX_POINTS].mean()
    assert np.array_equal(binned(values[:5]), values[:5])


def test_stack_fills_gaps_with_nothing_and_drops_empty_columns() -> None:
    steps, columns = stack([{"step": 1, "a": 1}, {"step": 2}, {"step": 4, "a": 2, "b": 3}, {"step": 5, "c": 0}], "abc")
    assert steps.tolist() == [1, 4, 5] and set(columns) == {"a", "b"} and columns["b"].tolist() == [0, 3, 0]


def test_ticks_are_round_and_inside() -> None:
    assert ticks(0, 1) == [0, 0.25, 0.5, 0.75, 1]
    assert ticks(0, 85) == [0, 25, 50, 75]
    assert all(-0.03 <= tick <= 0.07 for tick in ticks(-0.03, 0.07)) and len(ticks(-0.03, 0.07)) >= 3
    assert log_ticks(2e-5, 3e-4) == pytest.approx([2e-5, 5e-5, 1e-4, 2e-4])
    assert log_ticks(1e-4, 1e-1) == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1])


def test_numbers_read_well() -> None:
    values = (0, 0.614, 84.31, 1234.4, 13_200, 2.5e6, 6.3e-5, 1e-4, -0.0038)
    assert [number(v) for v in values] == ["0", "0.614", "84.3", "1234", "13.2k", "2.5M", "6.3·10⁻⁵", "10⁻⁴", "-0.0038"]


def heights(drawing: str, kind: str) -> list[float]:
    path = re.search(rf'class="{kind}"[^>]* d="([^"]*)"', drawing)
    assert path is not None
    return [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", path[1])]


def test_a_rising_series_rises_and_a_log_axis_is_even() -> None:
    curve = series([{"step": s, "x": 10.0**s} for s in range(1, 5)], "x", exact=True)
    assert curve is not None
    gaps = -np.diff(heights(line_chart([Line("x", curve, "--c0")], log=True), "line"))
    assert (gaps > 0).all() and np.allclose(gaps, gaps[0], atol=0.2)


def test_a_log_axis_is_given_up_where_most_values_have_no_logarithm() -> None:
    curve = series([{"step": s, "x": max(0.0, s - 3)} for s in range(1, 5)], "x")
    assert curve is not None and len(heights(line_chart([Line("x", curve, "--c0")], log=True), "line")) == 4


def test_stacked_bars_reach_their_sum() -> None:
    steps, columns = np.array([1.0, 2.0]), {"a": np.array([1.0, 3.0]), "b": np.array([2.0, 1.0])}
    drawing = stacked_chart(steps, columns, {"a": "--c0", "b": "--c1"}, height=130)
    lower, upper = ([float(y) for y in re.findall(r"V([\d.]+)", d)] for d in re.findall(r'<path d="(M[^"]*)"', drawing))
    assert lower == [83.0, 33.0, 108.0, 108.0]  # 100 units for 4: tops at 1 and 3, feet at 0
    assert upper == [33.0, 8.0, 33.0, 83.0]  # tops at 3 and 4, feet on the tops of a


def test_tooltips_give_the_values() -> None:
    curve = series([{"step": s, "x": s / 2} for s in range(1, 11)], "x")
    assert curve is not None
    drawing = line_chart([Line("<x>", curve, "--c0")])
    assert "<title>step 4\n&lt;x&gt; 2</title>" in drawing and drawing.count("<title>") == 10


def test_the_machine_is_described() -> None:
    assert re.fullmatch(r"\d+ CPU cores \(.+\) · \d+ GiB( · .+)?", describe_machine())
