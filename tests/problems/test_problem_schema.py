"""Rows and Problems: the schema, its messages, and the round trips through files."""

from __future__ import annotations

import json

import numpy as np
import pytest

from conf.errors import UserError
from rl.problems.schema import domain_of, load_problems, problem_from_row, read_rows, write_jsonl, write_parquet
from rl.problems.starter import problems


def row(**changes) -> dict:
    made = {
        "data_source": "math__starter",
        "prompt": [{"role": "user", "content": "What is 1 + 1?"}],
        "ability": "math",
        "apply_chat_template": True,
        "reward_model": {"style": "rule", "ground_truth": "2"},
        "extra_info": {"index": 5, "split": "train"},
    }
    made.update(changes)
    return {key: value for key, value in made.items() if value is not ...}


@pytest.mark.parametrize(
    "truth",
    ["43", '{"inputs": [], "outputs": []}', ["a", "b"], [[1, 2], [3, 4]], {"header": ["x"], "rows": [["1"]]}, 0.5, 7],
)
def test_truth_comes_back_as_it_was(truth) -> None:
    problem = problem_from_row(row(reward_model={"style": "rule", "ground_truth": truth}))
    assert isinstance(problem.ground_truth, str)
    assert problem.truth == truth


def test_arrays_become_lists() -> None:
    grid = np.array([np.array([1, 2]), np.array([3, 4])], dtype=object)
    prompt = np.array([{"role": "user", "content": "q"}], dtype=object)
    problem = problem_from_row(row(prompt=prompt, reward_model={"ground_truth": grid}, extra_info={"n": np.int64(3)}))
    assert problem.truth == [[1, 2], [3, 4]]
    assert problem.question == "q"
    assert json.dumps(dict(problem.extra_info)) == '{"n": 3}'


@pytest.mark.parametrize(
    ("source", "domain"),
    [
        ("math__deepscaler_preview", "math"),
        ("codegen__taco", "code"),
        ("stem_web", "science"),
        ("stem__supergpqa", "science"),
        ("logic__graph_logical_dataset", "logic"),
        ("simulation__codeio", "simulation"),
        ("simulation__arcagi1", "logic"),
        ("simulation__barc", "logic"),
        ("graph_logical_dataset", "logic"),
        ("ordering_puzzle_dataset", "logic"),
        ("zebra_puzzle_dataset", "logic"),
        ("table__hitab", "tabular"),
        ("aime24", "math"),
    ],
)
def test_domain_of_each_known_source(source: str, domain: str) -> None:
    assert domain_of(source) == domain
    assert problem_from_row(row(data_source=source)).domain == domain


def test_reasoning_gym_names_its_domain() -> None:
    assert domain_of("reasoning_gym", {"domain": "math"}) == "math"
    assert domain_of("reasoning_gym") == "logic"


@pytest.mark.parametrize("key", ["id", "index", "idx"])
def test_id_is_the_files_own_where_there_is_one(key: str) -> None:
    assert problem_from_row(row(extra_info={key: 0})).id == "math__starter:0"


def test_id_without_an_index_depends_on_source_and_prompt_only() -> None:
    first = problem_from_row(row(extra_info=None)).id
    assert first == problem_from_row(row(extra_info=..., reward_model={"ground_truth": "3"})).id
    assert first != problem_from_row(row(extra_info=None, data_source="math__other")).id
    assert first != problem_from_row(row(extra_info=None, prompt=[{"role": "user", "content": "?"}])).id


def test_pass_rates_are_kept_and_empty_keys_are_not() -> None:
    problem = problem_from_row(row(**{"qwen2.5_7b_pass_rate": 0.25}, extra_info={"index": 1, "prefix": None}))
    assert problem.extra_info == {"index": 1, "qwen2.5_7b_pass_rate": 0.25}


BROKEN = [
    ({"data_source": ...}, "column data_source is missing"),
    ({"data_source": 3}, "column data_source should hold"),
    ({"data_source": "chess__x"}, "column data_source should hold .*math, codegen.*'chess__x'"),
    ({"prompt": ...}, "column prompt is missing .columns found: data_source, ability"),
    ({"prompt": "What?"}, "column prompt should hold a list"),
    ({"prompt": []}, "column prompt should hold a list"),
    ({"prompt": [{"role": "user"}]}, "column prompt should hold"),
    ({"prompt": [{"role": "boss", "content": "x"}]}, "column prompt should hold.*roles system, user, assistant"),
    ({"prompt": [{"role": "system", "content": "x"}]}, "column prompt should hold.*user message"),
    ({"reward_model": ...}, "column reward_model is missing"),
    ({"reward_model": "2"}, "column reward_model should hold"),
    ({"reward_model": {"style": "rule"}}, 'column reward_model should hold an object with "ground_truth"'),
    ({"reward_model": {"ground_truth": "{", "encoding": "json"}}, "column reward_model.ground_truth should hold JSON"),
    ({"extra_info": "x"}, "column extra_info should hold"),
    ({"data_source": "reasoning_gym", "extra_info": {"domain": "chess"}}, "column extra_info.domain should hold"),
]


@pytest.mark.parametrize(("change", "message"), BROKEN)
def test_a_broken_row_names_file_row_and_column(change: dict, message: str, tmp_path) -> None:
    path = tmp_path / "rows.jsonl"
    write_jsonl([row(), row(**change)], path)
    with pytest.raises(UserError, match=rf"rows\.jsonl, row 2: {message}") as caught:
        load_problems([path])
    assert "\n" not in str(caught.value)
    good, rejects = load_problems([path], on_bad_row="skip")
    assert len(good) == 1
    assert len(rejects) == 1 and "row 2" in rejects[0]


def test_a_line_that_is_not_json_is_refused_or_skipped(tmp_path) -> None:
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps(row()), '{"data_source": ', "[1]", "", json.dumps(row(extra_info={"index": 6}))]
    path.write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"rows\.jsonl, row 2: not JSON"):
        list(read_rows(path))
    good, rejects = load_problems([path], on_bad_row="skip")
    assert [p.id for p in good] == ["math__starter:5", "math__starter:6"]
    assert ["row 2" in rejects[0], "row 3: expected a JSON object, found list" in rejects[1]] == [True, True]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.jsonl", None, r"none\.jsonl: no such file.*data\.train"),
        ("rows.csv", b"a,b", r"rows\.csv: .*\.jsonl and \.parquet"),
        ("rows.parquet", b"not parquet at all", r"rows\.parquet: not a readable parquet file"),
    ],
)
def test_a_file_that_cannot_be_read(name: str, content: bytes | None, message: str, tmp_path) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_problems([path], on_bad_row="skip")


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_round_trip_of_mixed_truths(suffix: str, tmp_path) -> None:
    rows = list(problems("train", 1, 60))
    path = tmp_path / f"rows.{suffix}"
    (write_parquet if suffix == "parquet" else write_jsonl)(rows, path)
    assert load_problems([path]) == ([problem_from_row(r) for r in rows], [])
    assert len(list(read_rows(path))) == 60


@pytest.mark.parametrize(
    ("truth", "kept"),
    [(["a", "b"], True), ([["x"], []], True), ([0.5, 1.5], True), ([{"a": 1}, {"b": 2}], False), (["a", ["b"]], False)],
)
def test_parquet_keeps_a_truth_in_its_own_type_where_one_fits(truth: list, kept: bool, tmp_path) -> None:
    path = tmp_path / "rows.parquet"
    write_parquet([row(reward_model={"style": "rule", "ground_truth": t}) for t in truth], path)
    written = [r["reward_model"] for r in read_rows(path)]
    assert ("encoding" in written[0]) != kept
    if kept:
        assert [w["ground_truth"] for w in written] == truth
    good, _ = load_problems([path])
    assert [p.truth for p in good] == truth


def test_equal_indexes_do_not_collapse(tmp_path) -> None:
    path = tmp_path / "rows.jsonl"
    write_jsonl([row(), row(prompt=[{"role": "user", "content": "What is 2 + 2?"}])], path)
    good, _ = load_problems([path])
    assert len({p.id for p in good}) == 2
    assert good[1].id.startswith("math__starter:5#")


def test_rows_that_are_the_same_in_all_are_all_kept(tmp_path) -> None:
    path = tmp_path / "same.jsonl"
    write_jsonl([row()] * 4, path)
    found, _ = load_problems([path])
    assert len({problem.id for problem in found}) == len(found) == 4
