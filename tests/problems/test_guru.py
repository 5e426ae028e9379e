"""Published names and rows as those of the one schema."""

from __future__ import annotations

import json

import numpy as np
import pytest

from actors.checkers.routes import NAMES
from rl.problems.guru import canonical, convert, pass_rates
from rl.problems.schema import RowError, problem_from_row


def row(**columns) -> dict:
    return {"data_source": "math__math", "prompt": [{"role": "user", "content": "1+1?"}], "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": "2"}, **columns}


@pytest.mark.parametrize("name,published", [
    ("graph_logical_dataset", "logic__graph_logical_dataset"), ("zebra_puzzle_dataset", "logic__zebra_puzzle_dataset"),
    ("ordering_puzzle_dataset", "logic__ordering_puzzle_dataset"), ("logic__arcagi1", "simulation__arcagi1"),
    ("arcagi2", "simulation__arcagi2"), ("barc", "simulation__barc"), ("stem__web", "stem_web"),
    ("codeio", "simulation__codeio"), ("finqa", "table__finqa"), ("ifeval", "ood__ifeval"),
])
def test_names_are_mapped_to_the_published_ones(name, published):
    assert canonical(name) == published


@pytest.mark.parametrize("name", [name for name in NAMES if "gpqa_diamond" not in name])
def test_published_names_stay(name):
    assert canonical(name) == name


@pytest.mark.parametrize("name", ["stem__gpqa_diamond", "stem__gpqa_diamond_no_box", "gpqa_diamond"])
def test_the_prompt_decides_which_gpqa_it_is(name):
    assert canonical(name, [{"content": "within \\boxed{}"}]) == "stem__gpqa_diamond"
    assert canonical(name, [{"content": "Answer: $LETTER"}]) == "stem__gpqa_diamond_no_box"


@pytest.mark.parametrize("truth", ["2", 0.125, 7, ["a", "b"], [[1, 2], [3, 4]], {"rows": [["1"]]}, '{"inputs": []}'])
def test_the_ground_truth_comes_back_as_it_was(truth):
    made = convert(row(reward_model={"ground_truth": truth}))
    assert made.row["reward_model"]["encoding"] == "json" and made.row["reward_model"]["style"] == "rule"
    assert problem_from_row(made.row).truth == truth == made.problem.truth


def test_arrays_become_lists():
    truth = np.array([np.array([1, 2]), np.array([3, 4])])
    made = convert(row(reward_model={"ground_truth": truth}, extra_info={"a": np.array([1])}))
    assert problem_from_row(made.row).truth == [[1, 2], [3, 4]]
    assert json.loads(made.row["extra_info"]) == {"a": [1]}


def test_other_columns_go_into_extra_info_and_pass_rates_stay_columns():
    made = convert(row(extra_info={"index": 3, "x": None}, prompt_id="p", **{"qwen3_30b_pass_rate": 1}))
    assert json.loads(made.row["extra_info"]) == {"index": 3, "prompt_id": "p"}
    assert made.row["qwen3_30b_pass_rate"] == 1.0 and made.row["qwen2.5_7b_pass_rate"] is None
    assert pass_rates(row(), problem_from_row(row())) == []
    assert pass_rates(row(low_pass_rate=0.5), made.problem) == [1, 0.5]


@pytest.mark.parametrize("columns,column,reason", [
    ({"data_source": "codgen__taco"}, "data_source", "should hold"),
    ({"data_source": "simulation__none"}, "data_source", "no task that can be checked .*did you mean"),
    ({"data_source": None}, "data_source", "is missing"),
    ({"reward_model": {"style": "rule"}}, "reward_model", "ground_truth"),
    ({"prompt": "text"}, "prompt", "should hold a list"),
    ({"extra_info": "{broken"}, "extra_info", "JSON text"),
    ({"qwen3_30b_pass_rate": 80}, "qwen3_30b_pass_rate", "a share from 0 to 1"),
])
def test_a_broken_row_names_its_column(columns, column, reason):
    with pytest.raises(RowError, match=reason) as error:
        convert(row(**columns), "f.parquet, row 2")
    assert error.value.column == column and str(error.value).startswith("f.parquet, row 2: column ")
