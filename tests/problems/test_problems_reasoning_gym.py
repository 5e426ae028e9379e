"""reasoning_gym as a source: rows that can be scored anywhere, and splits that do not meet."""

from __future__ import annotations

import json

import pytest

from conf.errors import UserError
from rl.problems import reasoning_gym as source
from rl.problems.reasoning_gym import ANSWER_FORMAT, rows
from rl.problems.schema import load_problems, problem_from_row, write_parquet
from rl.problems.starter import is_heldout

TASKS = ["chain_sum", "number_sorting"]


def test_an_entry_can_be_scored_from_the_row_alone() -> None:
    reasoning_gym = pytest.importorskip("reasoning_gym")
    for row in rows(TASKS, "train", 1, 6):
        problem = problem_from_row(row)
        entry = json.loads(problem.extra_info["entry"])
        score = reasoning_gym.get_score_answer_fn(problem.extra_info["task"])
        assert problem.question == entry["question"] + ANSWER_FORMAT
        assert score(answer=problem.truth, entry=entry) == 1.0
        assert score(answer="no", entry=entry) < 0.5


def test_splits_do_not_meet_and_rows_repeat_for_the_same_arguments() -> None:
    train = list(rows(TASKS, "train", 1, 200))
    heldout = list(rows(TASKS, "heldout", 1, 40))
    prompts = [{row["prompt"][0]["content"] for row in split} for split in (train, heldout)]
    assert not prompts[0] & prompts[1]
    assert [len(p) for p in prompts] == [200, 40]
    assert train == list(rows(TASKS, "train", 1, 200))
    assert [row["extra_info"]["task"] for row in train[:4]] == TASKS * 2


def test_rows_survive_a_file(tmp_path) -> None:
    made = list(rows(TASKS, "train", 2, 8))
    write_parquet(made, tmp_path / "rows.parquet")
    assert load_problems([tmp_path / "rows.parquet"])[0] == [problem_from_row(row) for row in made]


@pytest.mark.parametrize(
    ("tasks", "split", "message"),
    [
        (["chain_sun"], "train", "no task 'chain_sun': did you mean chain_sum"),
        ([], "train", "at least one task"),
        (["chain_sum"], "test", "train or heldout"),
        (["composite"], "train", "composite cannot be opened"),
        (["rearc"], "train", "rearc cannot be used .*JSON"),
    ],
)
def test_mistakes(tasks: list[str], split, message: str) -> None:
    with pytest.raises(UserError, match=message):
        list(rows(tasks, split, 1, 1))


class _OneQuestion:
    """A dataset that has a single question."""

    category = "arithmetic"

    def __getitem__(self, index: int) -> dict:
        return {"question": "What is 1 + 1?", "answer": "2", "metadata": {"index": index}}


def test_a_task_that_is_used_up_says_so(monkeypatch) -> None:
    monkeypatch.setattr(source, "_open", lambda task, seed, size: (_OneQuestion(), lambda answer, entry: 1.0))
    split = "heldout" if is_heldout("What is 1 + 1?") else "train"
    assert len(list(rows(["tiny"], split, 1, 1))) == 1
    with pytest.raises(UserError, match=f"task tiny has no new {split} question left"):
        list(rows(["tiny"], split, 1, 2))
