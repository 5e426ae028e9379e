"""Every file and every data_source that Guru publishes: read as it is, prepared, and judged."""

from __future__ import annotations

import json
from pathlib import Path

import published
import pytest

from actors import checkers
from conf.load import load
from rl.prepare import run
from rl.problems.schema import load_problems, read_rows

pytestmark = pytest.mark.process  # datasets takes seconds to import, programs are judged in the jail


@pytest.fixture(scope="module")
def guru(tmp_path_factory) -> Path:
    return published.write(tmp_path_factory.mktemp("guru"))


@pytest.fixture(scope="module")
def prepared(guru, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("prepared") / "guru"
    words = ["mode=prepare", "prepare.source=guru", f"prepare.input=[{guru}]", f"prepare.output={output}"]
    assert run(load(words)) == 0
    return output


@pytest.fixture(scope="module")
def problems(prepared):
    """The prepared problem of each question."""
    files = [prepared / "train.parquet", prepared / "heldout.parquet"]
    loaded, rejects = load_problems(files)
    assert rejects == []
    return {problem.question: problem for problem in loaded}


def test_the_fixture_has_every_published_source():
    named = {name for name in checkers.routes.NAMES if not name.startswith("reasoning")}
    there = {case.name for case in published.CASES}
    assert named <= there and {"stem_web", "ood__ifeval", "ood__ifbench", "ood__livebench"} <= there
    assert len({case.question for case in published.CASES}) == len(published.CASES)


@pytest.mark.parametrize("case", published.CASES, ids=lambda case: case.file)
def test_each_row_loads_and_is_judged(case, problems):
    problem = problems[case.question]
    assert problem.data_source == case.name
    assert problem.truth == case.row["reward_model"]["ground_truth"]
    assert checkers.check(problem, case.right).status == case.right_status
    assert checkers.check(problem, case.wrong).status == case.wrong_status


@pytest.mark.parametrize("case", published.CASES, ids=lambda case: case.file)
def test_each_published_file_loads_as_it_is(case, guru):
    loaded, rejects = load_problems([guru / f"{case.file}.parquet"])
    assert rejects == [] and case.question in {problem.question for problem in loaded}


def test_nothing_of_a_row_is_lost(problems):
    for case in published.CASES:
        problem, extra = problems[case.question], case.row.get("extra_info") or {}
        assert {k: v for k, v in extra.items() if v is not None}.items() <= problem.extra_info.items()
        for column in ("prompt_id", "raw_prompt", "response", "qwen2.5_7b_pass_rate", "qwen3_30b_pass_rate"):
            assert problem.extra_info.get(column) == case.row.get(column)


def test_the_files_have_one_schema_and_go_to_their_split(prepared):
    train, heldout = (list(read_rows(prepared / f"{split}.parquet")) for split in ("train", "heldout"))
    assert {tuple(row) for row in train + heldout} == {tuple(train[0])}
    assert all(row["reward_model"]["encoding"] == "json" and row["reward_model"]["style"] == "rule" for row in train)
    by_split = [sum(case.file.startswith("train/") == wanted for case in published.CASES) for wanted in (True, False)]
    assert [len(train), len(heldout)] == by_split  # of rows repeated 8 or 4 times, one is left


def test_the_card_adds_up_and_names_what_was_renamed(prepared):
    card = json.loads((prepared / "card.json").read_text())
    for part in card["splits"].values():
        assert sum(part["outcomes"].values()) == part["read"] == sum(item["rows"] for item in part["inputs"])
        assert sum(group["rows"] for group in part["groups"]) == part["rows"]
    assert card["splits"]["heldout"]["outcomes"]["exact duplicate"] == 7 + 7 + 3
    assert card["splits"]["train"]["renamed"] == {"graph_logical_dataset -> logic__graph_logical_dataset": 1}
    assert "stem__gpqa_diamond -> stem__gpqa_diamond_no_box" in card["splits"]["heldout"]["renamed"]
    assert {"math__aime_repeated_8x_240", "codegen__mbpp_200"} <= set(card["evaluation"]["sets"])
    text = (prepared / "card.md").read_text()
    assert "## train: " in text and "| simulation__arcagi1 | logic | 1 |" in text
    assert (prepared / "rejects.jsonl").read_text() == ""


def test_training_reads_the_folder(prepared):
    from rl.source import Source, heldout

    cfg = load(["data=files", f"data.train=[{prepared}]", f"data.heldout=[{prepared}]"])
    count = sum(case.file.startswith("train/") for case in published.CASES)
    assert len({problem.question for problem in Source(cfg).take(count)}) == count
    assert len(heldout(cfg, 99, 7)) == len(published.CASES) - count
