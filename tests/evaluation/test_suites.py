"""Each benchmark from a small local file in its published columns; what is missing is said in one sentence."""

from __future__ import annotations

import base64
import json
import pickle
import zlib
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.checkers import check
from conf.errors import UserError
from conf.load import load
from rl.evaluation import rows, suites
from rl.evaluation.suites import ENTRIES, load_suites


def write(path, table):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(table), path)
    return path


def unreached(entry):
    raise suites.unreachable(entry.hub, ConnectionError("Couldn't reach the Hub"))


def loaded(*words, fetch=unreached):
    return load_suites(load(["mode=eval", "eval.samples=2", *words]), fetch)


def packed(tests):
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(tests)))).decode()


AIME24 = [{"id": 60, "problem": "Find $1+1$.", "solution": "Two.", "answer": "2", "url": "u", "year": "2024"}]
MATHARENA = [{"problem_idx": 1, "problem": "Find $x$.", "answer": "\\frac{1}{2}", "problem_type": ["Algebra"]}]
OMNI = [{"domain": ["Algebra"], "difficulty": d, "problem": f"Of {d}?", "solution": "s", "answer": "3", "source": "x"}
        for d in (4.5, 9.0, 9.5)]
GPQA = [{"Record ID": "rec1", "Question": "Which?", "Correct Answer": "this", "Incorrect Answer 1": "that",
         "Incorrect Answer 2": "those", "Incorrect Answer 3": "these"}]
HLE = [{"id": "a", "question": "Who?", "image": "", "answer": "Gauss", "answer_type": "exactMatch", "category": "Math"},
       {"id": "b", "question": "What is shown?", "image": "data:image/png;base64,x", "answer": "a cat"}]
STDIN_TESTS = [{"input": "2\n", "output": "4\n", "testtype": "stdin"}]
CALL_TESTS = [{"input": "[1, 2]\n3", "output": "6", "testtype": "functional"}]
LCB = [
    {"question_id": "1", "question_content": "Double it.", "starter_code": "", "contest_date": "2024-08-01",
     "public_test_cases": json.dumps(STDIN_TESTS), "private_test_cases": packed(STDIN_TESTS), "metadata": "{}"},
    {"question_id": "2", "question_content": "Add all.", "contest_date": "2024-09-01",
     "starter_code": "class Solution:\n    def total(self, xs: list[int], y: int) -> int:",
     "public_test_cases": json.dumps(CALL_TESTS), "private_test_cases": json.dumps(CALL_TESTS),
     "metadata": json.dumps({"func_name": "total"})},
]
STEP = {"step_description_prompt": "Double x.", "function_header": "def double(x):", "return_line": "    return y",
        "test_cases": ["assert double(2) == target"], "targets": [4],
        "ground_truth_code": "def double(x):\n    return 2*x",
        "step_number": "1.1"}
SCICODE = [{"problem_id": "1", "required_dependencies": "import math", "sub_steps": [
    STEP, STEP | {"step_description_prompt": "Four times x.", "function_header": "def four(x):",
                  "test_cases": ["assert four(2) == target"], "targets": [8], "step_number": "1.2"}]}]
TABLES = {"aime24": AIME24, "aime25": MATHARENA, "hmmt25": MATHARENA, "omni_math_hard": OMNI, "gpqa_diamond": GPQA,
          "hle": HLE, "livecodebench": LCB, "scicode": SCICODE}


@pytest.mark.parametrize("name,problems,source", [
    ("aime24", 1, "math__aime24"), ("aime25", 1, "math__aime25"), ("hmmt25", 1, "math__hmmt25"),
    ("omni_math_hard", 2, "math__omni_math_hard"), ("gpqa_diamond", 1, "stem__gpqa_diamond"),
    ("hle", 1, "stem_web__hle"), ("livecodebench", 2, "codegen__livecodebench"), ("scicode", 2, "codegen__scicode"),
])
def test_every_suite_reads_its_published_columns(tmp_path, name, problems, source):
    write(tmp_path / f"{name}.parquet", TABLES[name])
    (suite,) = loaded(f"eval.suites=[{name}]", f"eval.local=[{tmp_path}]")
    assert (suite.name, suite.title, suite.samples) == (name, ENTRIES[name].title, 2)
    assert len(suite.problems) == problems and {p.data_source for p in suite.problems} == {source}
    assert suite.group == ("math" if source.startswith("math") else "")


def problems_of(name, tmp_path):
    write(tmp_path / f"{name}.parquet", TABLES[name])
    return loaded(f"eval.suites=[{name}]", f"eval.local=[{tmp_path}]")[0].problems


@pytest.mark.parametrize("name,right,wrong", [
    ("aime24", "so \\boxed{2}", "so \\boxed{3}"),
    ("hmmt25", "so \\boxed{0.5}", "so \\boxed{2}"),
])
def test_the_checkers_judge_what_the_readers_made(tmp_path, name, right, wrong):
    problem = problems_of(name, tmp_path)[0]
    assert check(problem, right).status == "correct" and check(problem, wrong).status == "incorrect"
    assert problem.question.endswith("within \\boxed{}.")


def test_the_options_of_a_choice_are_shuffled_the_same_every_time(tmp_path):
    (problem,) = problems_of("gpqa_diamond", tmp_path)
    letter = problem.truth
    assert f"({letter}) this" in problem.question
    assert check(problem, f"\\boxed{{{letter}}}").status == "correct"
    others = {rows.gpqa(GPQA[0] | {"Question": f"Which? {i}"}, "gpqa_diamond", 1)["reward_model"]["ground_truth"]
              for i in range(30)}
    assert others == set("ABCD")


def test_what_shows_an_image_or_is_easy_is_left_out_and_counted(tmp_path):
    for name in ("hle", "omni_math_hard"):
        write(tmp_path / f"{name}.parquet", TABLES[name])
    found = loaded("eval.suites=[hle,omni_math_hard]", f"eval.local=[{tmp_path}]")
    assert [dict(suite.skipped) for suite in found] == [{"asks about an image": 1}, {"difficulty below 9": 1}]


@pytest.mark.process
@pytest.mark.parametrize("number,right,wrong", [
    (0, "```python\nprint(2 * int(input()))\n```", "```python\nprint(5)\n```"),
    (1, "```python\nclass Solution:\n    def total(self, xs, y):\n        return sum(xs) + y\n```",
     "```python\nclass Solution:\n    def total(self, xs, y):\n        return y\n```"),
])
def test_livecodebench_programs_are_run(tmp_path, number, right, wrong):
    from functools import partial

    from actors.checkers.tools import Tools
    from actors.sandbox import backends

    tools = Tools.within(10, partial(backends.run, allow_weaker=True))
    problem = problems_of("livecodebench", tmp_path)[number]
    assert check(problem, right, tools).status == "correct", check(problem, right, tools)
    assert check(problem, wrong, tools).status == "incorrect"


@pytest.mark.process
def test_scicode_steps_build_on_the_reference_code_of_the_steps_before(tmp_path):
    from functools import partial

    from actors.checkers.tools import Tools
    from actors.sandbox import backends

    tools = Tools.within(10, partial(backends.run, allow_weaker=True))
    first, second = problems_of("scicode", tmp_path)
    assert "def double" not in first.extra_info["prefix"] and "return 2*x" in second.question
    answer = "```python\ndef four(x):\n    return double(double(x))\n```"
    assert check(second, answer, tools).status == "correct", check(second, answer, tools)
    assert check(second, answer.replace("double(double(x))", "x"), tools).status == "incorrect"
    assert first.extra_info["main"] == second.extra_info["main"] == "1"


def test_scicode_without_reference_code_says_what_is_missing(tmp_path):
    bare = {**SCICODE[0], "sub_steps": [{**step, "ground_truth_code": None} for step in SCICODE[0]["sub_steps"]]}
    write(tmp_path / "scicode.parquet", [bare])
    with pytest.raises(UserError, match="no problem is left .*no reference code of the steps before"):
        loaded("eval.suites=[scicode]", f"eval.local=[{tmp_path}]")


def test_a_pickle_that_would_run_something_is_refused():
    class Evil:
        def __reduce__(self):
            return print, ("owned",)

    encoded = base64.b64encode(zlib.compress(pickle.dumps(Evil()))).decode()
    with pytest.raises(pickle.UnpicklingError, match="only text may be in it"):
        rows.private_tests(encoded)


# --- where copies lie ---------------------------------------------------------------------------------------------


def test_a_copy_of_a_whole_data_set_gives_its_split(tmp_path):
    folder = tmp_path / "Omni-MATH"
    write(folder / "test-00000-of-00001.parquet", OMNI)
    write(folder / "train-00000-of-00001.parquet", OMNI[:1])
    (suite,) = loaded("eval.suites=[omni_math_hard]", f"eval.local=[{tmp_path}]")
    assert len(suite.problems) == 2


def test_a_missing_split_names_what_is_there(tmp_path):
    folder = tmp_path / "aime24"
    write(folder / "train-0.parquet", AIME24), write(folder / "dev-0.parquet", AIME24)
    with pytest.raises(UserError, match=r"no file of the split test \(files: dev-0.parquet, train-0.parquet\)"):
        loaded("eval.suites=[aime24:test]", f"eval.local=[{tmp_path}]")
    assert len(loaded("eval.suites=[aime24:dev]", f"eval.local=[{tmp_path}]")[0].problems) == 1


def test_a_hub_that_cannot_be_reached_names_the_local_option():
    with pytest.raises(UserError, match=r"HuggingFaceH4/aime_2024 cannot be read from the hub .*eval.local=\[FOLDER\]"):
        loaded("eval.suites=[aime24]")


@pytest.mark.process
def test_the_real_client_names_the_splits_that_a_set_has(tmp_path, monkeypatch):
    """`datasets` reads a folder as it does a set of the hub."""
    write(tmp_path / "set" / "train.parquet", AIME24)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    entry = replace(ENTRIES["aime24"], hub=str(tmp_path / "set"))
    assert [row["answer"] for row in suites.from_hub(entry)] == ["2"]
    with pytest.raises(UserError, match=r"has no split test .*train.*eval.suites=\[NAME:SPLIT\]"):
        suites.from_hub(replace(entry, split="test"))


@pytest.mark.process
def test_the_real_client_offline_says_so_too():
    """In a process of its own: the client reads the variable when it is imported."""
    import subprocess
    import sys
    from pathlib import Path

    root = Path(__file__).resolve().parents[2]
    words = ["mode=eval", "eval.suites=[aime25]", "run.dir=/nowhere"]
    done = subprocess.run([sys.executable, "main.py", *words], cwd=root, capture_output=True, text=True, timeout=120,
                          env={"PATH": "/usr/bin:/bin", "HOME": "/tmp", "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "MathArena/aime_2025 cannot be read from the hub" in done.stderr and "eval.local=" in done.stderr


@pytest.mark.parametrize("words,message", [
    (["eval.suites=[aime2024]"], "aime2024 is no suite: did you mean aime24"),
    (["eval.suites=[starter,starter]"], "holds starter twice"),
    (["eval.suites=[aime24]", "eval.local=[/no/such/place]"], "/no/such/place does not exist"),
    (["eval.suites=[/no/such.parquet]"], "/no/such.parquet: no such file"),
])
def test_mistakes_are_told(words, message):
    with pytest.raises(UserError, match=message):
        loaded(*words)


def test_a_wrong_column_is_named(tmp_path):
    write(tmp_path / "aime24.parquet", [{"text": "Find 1+1."}])
    with pytest.raises(UserError, match=r"row 1: not a row of AIME 2024: column answer or Answer is missing .*text"):
        loaded("eval.suites=[aime24]", f"eval.local=[{tmp_path}]")


# --- rows in Guru's schema ----------------------------------------------------------------------------------------


def guru(prompt, truth="2", source="math__aime_repeated_8x"):
    return {"data_source": source, "prompt": [{"role": "user", "content": prompt}], "ability": "math",
            "apply_chat_template": True, "reward_model": {"style": "rule", "ground_truth": truth}}


def test_a_file_of_yours_is_a_suite(tmp_path):
    path = write(tmp_path / "mine.parquet", [guru("1+1?"), guru("2+2?", "4")])
    (suite,) = loaded(f"eval.suites=[{path}]")
    assert (suite.name, len(suite.problems), suite.samples, suite.group) == ("mine", 2, 2, "math")


def test_gurus_offline_files_are_a_suite_each_and_repeated_problems_one(tmp_path):
    folder = tmp_path / "offline_eval"
    write(folder / "math__aime_repeated_8x_16.parquet", [guru(q) for q in ("1+1?", "2+2?") for _ in range(8)])
    write(folder / "table__hitab_1.parquet", [guru("Which cell?", source="table__hitab")])
    first, second = loaded("eval.suites=[guru_offline]", f"eval.local=[{tmp_path}]")
    assert (len(first.problems), first.samples) == (2, 16)
    assert (second.name, len(second.problems), second.samples) == ("table__hitab_1", 1, 2)


def test_without_suites_the_held_out_problems_of_the_data_are_asked():
    (suite,) = loaded("eval.problems=6")
    assert suite.name == "heldout" and len(suite.problems) == 6
    (starter,) = loaded("eval.problems=6", "eval.suites=[starter]")
    assert [p.question for p in starter.problems] == [p.question for p in suite.problems]
