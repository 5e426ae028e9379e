"""Guru-RL-92k in small: parquet files under the published names, in the published schemas, every data_source once or
more, with what is odd about each, and for each row an answer that is right and one that is wrong.

Written from notes on the public preprocessing code; the questions are ours.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GRID = [[1, 0], [0, 1]]
OTHER_GRID = [[1, 0], [0, 2]]
ZEBRA = {"header": ["Position", "Name", "Drink"], "rows": [["1", "Ann", "tea"], ["2", "Bob", "milk"]]}
ADD = "def add(a, b):\n    return a + b"
STDIO = "a, b = map(int, input().split())\nprint(a + b)"
BAD_STDIO = "a, b = map(int, input().split())\nprint(a - b)"
CRUX = "def f(n):\n    return n * 2 + 1"


@dataclass(frozen=True)
class Case:
    """One row of a published file, its right and its wrong answer, and the verdict that the wrong one gets."""

    file: str
    row: dict[str, Any]
    right: str
    wrong: str
    name: str  # the data_source after preparation
    right_status: str = "correct"
    wrong_status: str = "incorrect"

    @property
    def question(self) -> str:
        return self.row["prompt"][0]["content"]


def row(source: str, question: str, truth: Any, ability: str, extra: Any = ..., **columns: Any) -> dict[str, Any]:
    made = {
        "data_source": source,
        "prompt": [{"role": "user", "content": question}],
        "ability": ability,
        "apply_chat_template": True,
        "reward_model": {"style": "rule", "ground_truth": truth},
        **columns,
    }
    return made if extra is ... else {**made, "extra_info": extra}


def tagged(text: str) -> str:
    return f"<think>so</think><answer>{text}</answer>"


def boxed(text: str) -> str:
    return f"<think>so</think>The answer is \\boxed{{{text}}}."


def program(code: str) -> str:
    return f"<think>so</think>Here it is:\n```python\n{code}\n```\n"


BOX = " Please output the final answer within \\boxed{}."


def _math() -> list[Case]:
    cases = []
    train = ("math__merged_deduped_dapo_or1_dataset", "math__patch_merged_deduped_dapo_or1_dataset",
             "math__deepscaler_preview")
    for index, source in enumerate(train):
        question = f"A box holds {index + 3} bags of {index + 5} marbles. How many marbles are in the box?"
        extra = {"split": "train", "index": index, "reward_metric": None, "original_question": question}
        truth = str((index + 3) * (index + 5))
        rates = {"prompt_id": f"math-{index}", "qwen2.5_7b_pass_rate": 0.25 * index, "qwen3_30b_pass_rate": 0.75}
        made = row(source, question + BOX, truth, "math", extra, **rates)
        cases.append(Case("train/math__combined_54.4k", made, boxed(truth), boxed("7"), source))
    evaluation = (
        ("online_eval/math__math_500", "math__math"),
        ("online_eval/math__aime_repeated_8x_240", "math__aime_repeated_8x"),
        ("online_eval/math__amc_repeated_4x_332", "math__amc_repeated_4x"),
        ("offline_eval/math__minerva_272", "math__minerva"),
        ("offline_eval/math__olympiad_bench_674", "math__olympiad_bench"),
        ("offline_eval/math__aime2025_repeated_8x_240", "math__aime2025_repeated_8x"),
    )  # fmt: skip
    for index, (file, source) in enumerate(evaluation):
        question = f"Simplify the sum of one half and 1/{index + 3} to a single fraction in lowest terms, please."
        extra = {"split": "test", "index": index, "reward_metric": None}
        made = row(source, question + BOX, f"\\frac{{{index + 5}}}{{{2 * index + 6}}}", "math", extra)
        right = f"\\frac{{{index + 5}}}{{{2 * index + 6}}}"
        cases.append(Case(file, made, boxed(right), boxed("\\frac{1}{97}"), source))
    return cases


def _code() -> list[Case]:
    functional = json.dumps({"functional": "def check(candidate):\n    assert candidate(2, 3) == 5\n"
                                           "    assert candidate(-1, 1) == 0\n\ncheck(add)"})
    asserts = json.dumps({"functional": "assert add(2, 3) == 5\nassert add(0, 0) == 0"})
    tests = {"inputs": ["1 2\n", "3 4\n"], "outputs": ["3\n", "7\n"]}
    stdio = json.dumps({**tests, "complete_inputs": tests["inputs"] * 3, "complete_outputs": tests["outputs"] * 3})
    both = program(ADD), program("def add(a, b):\n    return a * b")
    lines = program(STDIO), program(BAD_STDIO)
    leetcode = {"split": "train", "index": 1, "reference": ADD, "original_prompt": "Add.", "prefix": "import math",
                "dataset": "LeetCodeDataset", "question_title": "Add", "difficulty": "Easy"}
    taco = {"split": "train", "index": 3, "source": "codeforces"}
    lcb = {"split": "train", "index": 2, "dataset": "LiveCodeBench", "function_name": None, "original_prompt": "Add."}
    named = {**lcb, "function_name": "add"}
    table = [
        ("train/codegen__leetcode2k_1.3k", "codegen__leetcode2k", functional, leetcode, both),
        ("train/codegen__livecodebench_440", "codegen__livecodebench", stdio, lcb, lines),
        ("train/codegen__primeintellect_7.5k", "codegen__primeintellect", asserts, named, both),
        ("train/codegen__taco_8.8k", "codegen__taco", stdio, taco, lines),
        ("online_eval/codegen__humaneval_164", "codegen__humaneval", functional, {"task_id": "HumanEval/0"}, both),
        ("online_eval/codegen__mbpp_200", "codegen__mbpp", asserts, {"task_id": "11"}, both),
        ("online_eval/codegen__livecodebench_279", "codegen__livecodebench", stdio, lcb, lines),
        ("offline_eval/codegen__humanevalplus_164", "codegen__humanevalplus", functional, {"task_id": "H/1"}, both),
        ("offline_eval/codegen__mbppplus_378", "codegen__mbppplus", asserts, {"task_id": "12"}, both),
    ]  # fmt: skip
    cases = []
    for file, source, truth, extra, (right, wrong) in table:
        question = f"Write the sum of two numbers, task {source} of {file.partition('/')[0]}, as a Python program."
        cases.append(Case(file, row(source, question, truth, "codegen", extra), right, wrong, source))
    return cases


def _logic() -> list[Case]:
    zebra, wrong_zebra = json.dumps(ZEBRA), json.dumps({**ZEBRA, "rows": [["1", "Bob", "tea"], ["2", "Ann", "milk"]]})
    order = ["hawk", "crow", "owl"]
    puzzle = {"id": 4, "raw_instruction": "Order them.", "raw_input": "three birds", "num_objects": 3, "split": "train"}
    arc = {"split": "train", "index": 5}
    table = [
        # ARC and BARC: the file says logic, the rows say simulation
        ("train/logic__arcagi1_111", "simulation__arcagi1", GRID, arc, str(GRID), str(OTHER_GRID)),
        ("train/logic__arcagi2_190", "simulation__arcagi2", GRID, arc, str(GRID), str(OTHER_GRID)),
        ("train/logic__barc_1.6k", "simulation__barc", GRID, arc, str(GRID), str(OTHER_GRID)),
        ("online_eval/logic__arcagi1_200", "logic__arcagi1", GRID, arc, str(GRID), str(OTHER_GRID)),
        ("train/logic__graph_logical_1.2k", "logic__graph_logical_dataset", "fdebme", {"id": 6, "lookahead": 2,
            "split": "train"}, "FDebme", "abc"),
        ("train/logic__graph_logical_dataset_1.2k", "graph_logical_dataset", "dcba", {"id": 7, "lookahead": 2,
            "split": "train"}, "dcba", "abc"),
        ("train/logic__ordering_puzzle_1.9k", "logic__ordering_puzzle_dataset", order, puzzle, str(order), "['crow']"),
        ("online_eval/logic__ordering_puzzle_dataset_100", "ordering_puzzle_dataset", order, puzzle, "hawk, crow, owl",
            "owl, crow, hawk"),
        ("train/logic__zebra_puzzle_1.3k", "logic__zebra_puzzle_dataset", ZEBRA, {**puzzle, "grid_size": "2x3"}, zebra,
            wrong_zebra),
        ("online_eval/logic__zebra_puzzle_dataset_200", "zebra_puzzle_dataset", ZEBRA, {**puzzle, "grid_size": "2x3"},
            zebra, wrong_zebra),
    ]  # fmt: skip
    cases = []
    for file, source, truth, extra, right, wrong in table:
        name = {"logic__arcagi1": "simulation__arcagi1"}.get(source, source)
        name = name if "__" in name else f"logic__{name}"
        made = row(source, f"Puzzle {file}: give the answer in tags.", truth, "reasoning", extra)
        cases.append(Case(file, made, tagged(right), tagged(wrong), name))
    return cases


def _rest() -> list[Case]:
    codeio = 'Give the output as \\boxed{} in ```json``` of what doubles {"x": 4}.'
    crux = "Complete the assertion. assert f(3) == ??"
    web = {"idx": 8, "question": "Speed?", "category": "Physics", "difficulty": "University", "answer_type": "Float",
           "token_length": 12}
    cases = []
    for file in ("train/simulation__codeio_3.7k", "online_eval/simulation__codeio_200"):
        made = row("simulation__codeio", f"{codeio} ({file})", '"output": {"x": 8}', "coding-inference",
                   {"split": "train", "index": 9})
        right, wrong = (f"<think>so</think>```json\n{text}\n```" for text in ('{"output": {"x": 8}}', '{"output": 8}'))
        cases.append(Case(file, made, right, wrong, "simulation__codeio"))
    for kind, wrong in (("i", "assert f(2) == 7"), ("o", "assert f(3) == 6")):
        question = (crux if kind == "o" else "Find an input. assert f(??) == 7")
        made = row(f"simulation__cruxeval-{kind}", question, json.dumps({"functional": CRUX}), "simulation",
                   {"split": "test", "index": 1})
        cases.append(Case(f"offline_eval/simulation__cruxeval-{kind}_800", made, program("assert f(3) == 7"),
                          program(wrong), f"simulation__cruxeval-{kind}"))
    for file, source, truth, right, wrong in (
        ("train/table__hitab_4.3k", "table__hitab", "1234", "1,234", "1,235"),
        ("train/table__multihier_1.5k", "table__multihier", "north|south", "south|north", "south|east"),
        ("online_eval/table__hitab_200", "table__hitab", "12.5%", "12.5%", "13%"),
        ("online_eval/table__multihier_200", "table__multihier", "7", "7", "8"),
    ):  # fmt: skip
        made = row(source, f"Read the table of {file} and box the answer.", truth, "table", {"split": "x", "index": 2})
        cases.append(Case(file, made, boxed(right), boxed(wrong), source))
    finqa = row("table__finqa", "What share is it? Box it.", 0.125, "table")  # a number, and no extra_info column
    cases.append(Case("offline_eval/table__finqa_1.1k", finqa, boxed("0.125"), boxed("0.25"), "table__finqa"))
    stem = row("stem_web", "You are a knowledgeable assistant. Speed? Answer within \\boxed{}.", "42 m/s", "QA", web,
               raw_prompt="Speed?", response="It is 42 m/s.")
    stem["reward_model"] = {"ground_truth": "42 m/s"}  # no style
    cases.append(Case("train/stem__web_3.6k", stem, boxed("42 m/s"), boxed("41 m/s"), "stem_web", wrong_status="error"))
    return cases + _choices() + _without_checker()


def _choices() -> list[Case]:
    box = "Which one? Put your final answer option within \\boxed{}. Only put the letter."
    line = "Which one? End with the line 'Answer: $LETTER'."
    extra = {"split": "test", "index": 3, "original_prompt": "Which one?", "dataset": "gpqa"}
    spoken = ("<think>so</think>I see.\nAnswer: B", "<think>so</think>I see.\nAnswer: C")
    return [
        Case("online_eval/stem__supergpqa_200", row("stem__supergpqa", box, "B", "stem", extra), boxed("B"), boxed("C"),
             "stem__supergpqa"),
        # the two names of GPQA are swapped: the prompt decides
        Case("offline_eval/stem__gpqa_diamond_198", row("stem__gpqa_diamond_no_box", box + " Q1", "B", "stem", extra),
             boxed("B"), boxed("C"), "stem__gpqa_diamond"),
        Case("offline_eval/stem__gpqa_diamond_no_box_198", row("stem__gpqa_diamond", line, "B", "stem", extra), *spoken,
             "stem__gpqa_diamond_no_box"),
    ]


def _without_checker() -> list[Case]:
    kwargs = [{"num_words": 20, "relation": "at least"}, {"num_words": None, "relation": None}]
    instructions = {"instruction_id_list": ["length:number_words", "no_comma"], "prompt": "Write on rain."}
    strict = {"right_status": "error", "wrong_status": "error"}
    ifbench = [{"instruction_id": ["count:word"], "kwargs": [{"n": 3}]}]
    livebench = {"category": "language", "task": "connections", "prompt": "Group them.", "date": "2024-06-24"}
    return [
        Case("offline_eval/ood__ifeval_541", row("ood__ifeval", "Write on rain.", kwargs, "ood", instructions), "rain",
             "sun", "ood__ifeval", **strict),
        Case("offline_eval/ood__ifbench_100", row("ood__ifbench", "Write thrice.", ifbench, "ood", None), "rain", "sun",
             "ood__ifbench", **strict),
        Case("offline_eval/ood__livebench_language_140", row("ood__livebench", "Group them.", "a,b", "ood", livebench),
             "a", "b", "ood__livebench", **strict),
    ]


CASES = [*_math(), *_code(), *_logic(), *_rest()]


def write(folder: Path, cases: list[Case] | None = None) -> Path:
    """The files of all cases: each in its own Arrow schema, since they have none in common."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    files: dict[str, list[dict[str, Any]]] = {}
    for case in CASES if cases is None else cases:
        repeats = 8 if "_8x" in case.file else 4 if "_4x" in case.file else 1
        files.setdefault(case.file, []).extend([case.row] * repeats)
    for name, rows in files.items():
        path = folder / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), path)
    return folder
