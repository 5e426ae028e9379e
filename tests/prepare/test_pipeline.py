"""mode=prepare from files to a folder: what is kept, what is not and why, sampling, and runs that were cut off."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from conf.errors import UserError
from conf.load import load
from rl.prepare import inputs as inputs_module
from rl.prepare import reading, run
from rl.prepare import steps as steps_module
from rl.prepare.pipeline import OUTCOMES
from rl.problems.schema import read_rows, write_jsonl, write_parquet

pytestmark = pytest.mark.process  # datasets takes seconds to import

TRACE = "<think>so</think><answer>{}</answer>"


def problem(question: str, truth: str = "1", **columns) -> dict:
    return {"data_source": "math__made", "prompt": [{"role": "user", "content": question}], "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": truth}, **columns}


def trace(question: str, answer: str = "4", **columns) -> dict:
    turns = [{"from": "human", "value": question}, {"from": "assistant", "value": TRACE.format(answer)}]
    return {"conversations": turns, **columns}


class Workshop:
    """A folder with inputs, and preparations of them."""

    def __init__(self, path: Path) -> None:
        self.path, self.count = path, 0

    def write(self, name: str, rows: list[dict]) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        (write_parquet if path.suffix == ".parquet" else write_jsonl)(rows, path)
        return path

    def prepare(self, *words: str, output: str = "", source: str = "files", code: int = 0) -> Path:
        self.count += not output
        folder = self.path / (output or f"out{self.count}")
        told = ["mode=prepare", f"prepare.source={source}", f"prepare.output={folder}"]
        given = [] if any(word.startswith("prepare.input") for word in words) else [f"prepare.input=[{self.path}/in]"]
        assert run(load([*told, *given, *words])) == code
        return folder


@pytest.fixture
def workshop(tmp_path) -> Workshop:
    return Workshop(tmp_path)


def card(folder: Path, split: str = "train") -> dict:
    part = json.loads((folder / "card.json").read_text())["splits"][split]
    assert sum(part["outcomes"].values()) == part["read"]
    assert set(part["outcomes"]) <= {*OUTCOMES, "held out", "not sampled"}
    return part


def rows(folder: Path, split: str = "train") -> list[dict]:
    return [row for file in sorted(folder.glob(f"{split}*.parquet")) for row in read_rows(file)]


def questions(folder: Path) -> list[str]:
    return [row["prompt"][0]["content"] for row in rows(folder)]


def rejects(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "rejects.jsonl").read_text().splitlines()]


# --- what is kept -------------------------------------------------------------------------------------------------


def test_six_subsets_with_different_schemas_become_one_file_of_messages(workshop):
    extra = [{"system": "s"}, {"info": {"lang": "en"}}, {"info": [1]}, {"source": 3}, {}, {"score": 0.5}]
    for index, name in enumerate(("math", "code", "science", "if", "multiturn", "chat")):
        first = trace(f"{name} 1?", **extra[index])
        first["conversations"][1]["info"] = {"n": index} if index % 2 else None
        bad = trace(f"{name} 2?")
        bad["conversations"][1]["value"] = ["<think>endless", "<think>a</think><answer></answer>"][index % 2]
        workshop.write(f"in/{name}.jsonl", [first, bad, trace(f"{name} 3?", info="text now")])
    folder = workshop.prepare(source="am_thinking")
    assert [row["subset"] for row in rows(folder)] == [n for n in sorted(("math", "code", "science", "if", "multiturn",
                                                                         "chat")) for _ in range(2)]
    assert {tuple(row) for row in rows(folder)} == {("messages", "subset")}
    assert [m["role"] for m in rows(folder)[0]["messages"]] == ["user", "assistant"]
    assert card(folder)["outcomes"] == {"kept": 12, "malformed": 6}
    assert rejects(folder)[0] == {"file": "chat.jsonl", "row": 2, "column": "conversations",
                                  "reason": "has a trace with an empty answer"}
    assert {"name": "math", "domain": "math", "rows": 2} in card(folder)["groups"]


def test_repeated_rows_are_counted_by_how_they_repeat(workshop):
    workshop.write("in/a.jsonl", [
        problem("What is x + 1?"), problem("What is x - 1?"), problem("What is x + 1?"), problem("what is X+1?"),
        problem("What is  x + 1?", "2")])
    folder = workshop.prepare()
    assert questions(folder) == ["What is x + 1?", "What is x - 1?"]
    assert card(folder)["outcomes"] == {"kept": 2, "exact duplicate": 1, "same text": 1, "contradiction": 1}
    reason = "asks what an earlier row asks, with another answer"
    assert [(r["row"], r["reason"]) for r in rejects(folder)] == [(5, reason)]


def test_two_worked_answers_to_one_question_are_two_examples(workshop):
    workshop.write("in/a.jsonl", [trace("2+2?"), trace("2+2?", "four"), trace("2+2?")])
    assert card(workshop.prepare(source="am_thinking"))["outcomes"] == {"kept": 2, "exact duplicate": 1}


def test_questions_of_evaluation_sets_are_removed_and_told(workshop):
    asked = "a farmer has twelve hens and three of them lay two eggs every day how many"
    own = "Quite another question."
    workshop.write("in/train/a.jsonl", [problem(f"Please: {asked}"), problem(own), problem(asked), problem("Mine.")])
    workshop.write("in/test/own.jsonl", [problem(own)])
    bench = workshop.write("bench.jsonl", [{"problem": "none"}, {"problem": asked.upper()}])
    folder = workshop.prepare(f"prepare.against=[{bench}]")
    assert questions(folder) == ["Mine."]
    told = json.loads((folder / "card.json").read_text())["evaluation"]
    assert told["sets"] == {"bench": {"questions": 2, "matched rows": 2}, "own": {"questions": 1, "matched rows": 1}}
    assert "| bench | 2 | 2 |" in (folder / "card.md").read_text()
    shared = " ".join(asked.split()[:13])
    assert rejects(folder)[0] == {"file": "train/a.jsonl", "row": 1, "column": "prompt",
                                  "reason": f"shares words with bench question 2: {shared}"}


def test_problems_are_chosen_by_what_models_solve(workshop):
    weak, strong = "qwen2.5_7b_pass_rate", "qwen3_30b_pass_rate"
    rates = [(0.0, 0.0), (0.0, 0.4), (0.5, 0.9), (0.95, 1.0), (None, None)]
    workshop.write("in/a.parquet", [problem(f"question {i}", **{weak: a, strong: b}) for i, (a, b) in enumerate(rates)])
    folder = workshop.prepare("prepare.min_pass=1e-5", "prepare.max_pass=0.9")
    assert questions(folder) == ["question 1", "question 2", "question 4"]  # what nobody rated stays
    assert card(folder)["outcomes"] == {"kept": 3, "pass rate": 2}
    assert [row[strong] for row in rows(folder)] == [0.4, 0.9, None]


def test_a_sample_depends_on_the_seed_and_on_nothing_else(workshop):
    made = [problem(f"question number {i}") for i in range(60)]
    workshop.write("in/a.jsonl", made[:20])
    workshop.write("in/b.parquet", made[20:])
    workshop.write("other/z.jsonl", made[40:][::-1])
    workshop.write("other/c.jsonl", made[:40])
    first = workshop.prepare("prepare.limit=15")
    shuffled = workshop.prepare("prepare.limit=15", f"prepare.input=[{workshop.path}/other]")
    files = f"{workshop.path}/in/b.parquet,{workshop.path}/in/a.jsonl"
    listed = workshop.prepare("prepare.limit=15", f"prepare.input=[{files}]")
    other = workshop.prepare("prepare.limit=15", "data.seed=2")
    assert set(questions(first)) == set(questions(shuffled)) == set(questions(listed)) != set(questions(other))
    assert questions(first) == questions(listed)
    assert card(first)["outcomes"] == {"kept": 15, "not sampled": 45} and len(questions(first)) == 15


def test_domains_can_be_chosen(workshop):
    workshop.write("in/a.jsonl", [problem("one"), {**problem("two"), "data_source": "table__hitab"}])
    assert questions(workshop.prepare("data.domains=[tabular]")) == ["two"]


def test_compressed_lines_and_blank_ones_are_read(workshop):
    (workshop.path / "in").mkdir()
    with gzip.open(workshop.path / "in" / "a.jsonl.gz", "wt") as file:
        file.write(json.dumps(problem("one")) + "\n\n" + json.dumps(problem("two")) + "\n")
    assert questions(workshop.prepare()) == ["one", "two"]


def test_files_with_huge_row_groups_are_read_a_few_rows_at_a_time(workshop, monkeypatch):
    workshop.write("in/a.parquet", [problem(f"question {i}", extra_info={"tests": "x" * 1000}) for i in range(300)])
    plain = workshop.prepare()
    monkeypatch.setattr(reading, "MAX_GROUP_BYTES", 1000)
    monkeypatch.setattr(reading, "BATCH_ROWS", 7)
    monkeypatch.setattr(reading, "_datasets", lambda *_: pytest.fail("datasets would decode the whole row group"))
    assert rows(workshop.prepare()) == rows(plain) and len(rows(plain)) == 300


def test_the_starter_gives_problems_and_worked_answers(workshop):
    folder = workshop.prepare("prepare.limit=24", "prepare.input=[]", source="starter")
    assert [len(rows(folder, split)) for split in ("train", "heldout", "sft")] == [24, 24, 24]
    assert set(rows(folder, "sft")[0]) == {"messages", "subset"}
    assert card(folder, "train")["groups"][0] == {"name": "codegen__starter", "domain": "code", "rows": 4}


def test_reasoning_gym_gives_rows_that_can_be_judged(workshop):
    from actors import checkers
    from rl.problems.schema import load_problems

    folder = workshop.prepare("prepare.limit=6", "prepare.input=[]", "data.tasks=[chain_sum,leg_counting]",
                              source="reasoning_gym")
    problems, _ = load_problems([folder / "train.parquet"])
    right = [checkers.check(p, f"<answer>{json.loads(p.extra_info['entry'])['answer']}</answer>") for p in problems]
    assert [verdict.status for verdict in right] == ["correct"] * 6


# --- what is broken -----------------------------------------------------------------------------------------------


@pytest.fixture
def broken(workshop) -> Workshop:
    workshop.write("in/a.jsonl", [problem("one"), {**problem("two"), "reward_model": {}}, problem("three")])
    with open(workshop.path / "in" / "a.jsonl", "a") as file:
        file.write('{"torn\n' + json.dumps(trace("a worked one")) + "\n[1]\n")
    return workshop


def test_a_broken_row_is_refused_with_its_place(broken):
    with pytest.raises(UserError, match=r"^a.jsonl, row 2: column reward_model should hold .*: mend it, or .*=skip"):
        broken.prepare()
    assert not (broken.path / "out1").exists() and not (broken.path / "out1.partial").exists()


def test_broken_rows_are_left_out_as_told_and_nothing_else_is(broken):
    folder = broken.prepare("data.on_bad_row=skip")
    assert questions(folder) == ["one", "three"]
    assert [(r["file"], r["row"], r["column"]) for r in rejects(folder)] == [
        ("a.jsonl", 2, "reward_model"), ("a.jsonl", 4, ""), ("a.jsonl", 5, "messages"), ("a.jsonl", 6, "")]
    assert "not JSON" in rejects(folder)[1]["reason"] and "worked answer" in rejects(folder)[2]["reason"]
    assert card(folder)["outcomes"] == {"kept": 2, "broken": 4}


@pytest.mark.parametrize("words,message", [
    (["prepare.input=[{p}/none]"], "prepare.input=.*none: no such file or folder here, nor a dataset's name"),
    (["prepare.input=[{p}/empty]"], "empty holds no .parquet"),
    (["prepare.input=[{p}/a.csv]"], "only .parquet, .jsonl"),
    (["prepare.input=[{p}/bad.parquet]"], "bad.parquet: cannot be read .*download or write it again"),
    (["prepare.input=[{p}/gz.jsonl.gz]"], "gz.jsonl.gz: cannot be read"),
    (["prepare.input=[{p}/eval]"], r"has no train split \(it holds 1 held-out files, such as heldout: test/a.jsonl\)"),
    (["prepare.against=[nothing]"], "prepare.against: nothing is no file, no folder, and no held-out file"),
    (["prepare.against=[{p}/a.jsonl]"], r"a.jsonl, row 1: no evaluation question .*columns: x"),
    (["prepare.min_pass=0.5"], r"nothing is left to train on \(1 rows read: 1 pass rate\)"),
])
def test_a_mistake_is_one_sentence_with_its_fix(workshop, words, message):
    workshop.write("in/good.jsonl", [problem("one", extra_info={"pass_rate": 0.1})])
    workshop.write("eval/test/a.jsonl", [problem("one")])
    workshop.write("a.jsonl", [{"x": 1}])
    (workshop.path / "empty").mkdir()
    for name in ("a.csv", "bad.parquet", "gz.jsonl.gz"):
        (workshop.path / name).write_bytes(b"no such thing")
    with pytest.raises(UserError, match=message) as error:
        workshop.prepare(*(word.format(p=workshop.path) for word in words))
    assert "\n" not in str(error.value) and not (workshop.path / "out1").exists()


def test_an_output_that_holds_something_is_never_touched(workshop):
    workshop.write("in/a.jsonl", [problem("one")])
    (workshop.path / "mine").mkdir()
    (workshop.path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(UserError, match="mine holds something else already: remove it, or give another folder"):
        workshop.prepare(output="mine")
    (workshop.path / "done").mkdir()  # an empty folder is nothing
    folder = workshop.prepare(output="done")
    (workshop.path / "done.partial").mkdir()  # as a kill right after the last rename leaves it
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    workshop.prepare(output="done")  # the same again: nothing to do
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert not (workshop.path / "done.partial").exists()
    with pytest.raises(UserError, match="done holds another preparation already"):
        workshop.prepare("data.seed=5", output="done")


def test_an_output_that_cannot_be_written(workshop):
    workshop.write("in/a.jsonl", [problem("one")])
    with pytest.raises(UserError, match="prepare.output=.* cannot be written"):
        workshop.prepare(output="in/a.jsonl/out")


# --- what was cut off ---------------------------------------------------------------------------------------------


@pytest.fixture
def many(workshop, monkeypatch) -> Workshop:
    """Three files of 40 rows that repeat each other, in steps of 10."""
    monkeypatch.setattr(steps_module, "STEP_ROWS", 10)
    monkeypatch.setattr(reading, "BATCH_ROWS", 5)
    for name in "abc":
        workshop.write(f"in/{name}.jsonl", [problem(f"question {i * (1 + (name == 'c'))} of all") for i in range(40)])
    return workshop


def stop_after(monkeypatch, batches: int, error: BaseException) -> None:
    """The next preparation is cut off in the middle of reading."""
    original, left = reading.batches, [batches]

    def counted(*words):
        for batch in original(*words):
            left[0] -= 1
            if left[0] < 0:
                raise error
            yield batch

    monkeypatch.setattr(inputs_module, "batches", counted)


@pytest.mark.parametrize("stops", [[1], [3], [9, 1], [20], [2, 3, 4, 5]])
def test_a_run_that_was_cut_off_goes_on_and_ends_the_same(many, monkeypatch, stops, capsys):
    whole, interrupted = many.prepare(), many.path / "again"
    for stop in stops:
        with monkeypatch.context() as patch:
            stop_after(patch, stop, KeyboardInterrupt())
            many.prepare(output="again", code=130)
        assert not interrupted.exists()
    capsys.readouterr()
    many.prepare(output="again")
    assert ("going on after" in capsys.readouterr().out) == (max(stops) > 2 or sum(stops) > 3)
    assert rows(interrupted) == rows(whole) and card(interrupted) == card(whole)
    assert (interrupted / "rejects.jsonl").read_text() == (whole / "rejects.jsonl").read_text()
    assert not (many.path / "again.partial").exists()


def test_steps_of_other_settings_are_not_taken(many, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        stop_after(patch, 9, KeyboardInterrupt())
        many.prepare(output="again", code=130)
    folder = many.prepare("prepare.limit=5", output="again")
    assert "beginning anew" in capsys.readouterr().out and len(rows(folder)) == 5


def test_a_full_disk_is_one_sentence_and_loses_nothing(many, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 9, OSError(28, "No space left on device", "somewhere"))
        with pytest.raises(UserError, match="somewhere: No space left on device: make room .* goes on where it was"):
            many.prepare(output="again")
    many.prepare(output="again")
    assert rows(many.path / "again") == rows(many.prepare())


def test_two_at_a_time_are_refused(many, monkeypatch):
    from rl.prepare.steps import Steps

    with Steps(many.path / "again", {}), pytest.raises(UserError, match="another preparation is writing .*again.part"):
        many.prepare(output="again")


def test_a_large_result_is_in_shards(many, monkeypatch):
    from rl.prepare import finish

    whole = many.prepare()
    monkeypatch.setattr(finish, "ONE_FILE_BYTES", 2000)
    folder = many.prepare()
    names = [path.name for path in sorted(folder.glob("train*"))]
    assert len(names) > 2 and names[0] == f"train-00000-of-{len(names):05d}.parquet" and names == card(folder)["files"]
    sampled = many.prepare("prepare.limit=37")
    assert rows(folder) == rows(whole) and len(rows(sampled)) == 37
    assert sorted(path.name for path in sampled.glob("train*")) == card(sampled)["files"]


def test_rows_are_held_out_where_the_source_holds_none_out(many):
    folder = many.prepare("prepare.heldout=7", "prepare.limit=30")
    train, heldout = ({row["prompt"][0]["content"] for row in rows(folder, split)} for split in ("train", "heldout"))
    assert (len(train), len(heldout)) == (30, 7) and not train & heldout
    assert card(folder)["outcomes"]["held out"] == 7 and card(folder, "heldout")["rows"] == 7
    same = many.prepare("prepare.heldout=7")
    assert {row["prompt"][0]["content"] for row in rows(same, "heldout")} == heldout
    with pytest.raises(UserError, match="prepare.heldout=60 leaves nothing to train on: 60 rows are there"):
        many.prepare("prepare.heldout=60")
