"""Guru-RL-92k: its published files, and its rows in the one row schema whatever file they come from.

The files disagree with each other: the ground truth is text, a list, a struct or a number; extra_info has other keys
in every file, or is missing; names lack their prefix, or carry that of another domain. Every row leaves here with its
ground truth and extra_info as JSON text, under the name that its checker is found by.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from actors.checkers.routes import UnknownSource, route
from actors.messages import Problem
from rl.problems.schema import KEPT_COLUMNS, RowError, problem_from_row

REPO = "LLM360/guru-RL-92k"
TRAIN, EVALUATION = ("train",), ("online_eval", "offline_eval")
"""The folders of the published splits."""

PREFIXES = (
    ("graph_logical", "logic__"),
    ("ordering_puzzle", "logic__"),
    ("zebra_puzzle", "logic__"),
    ("arcagi", "simulation__"),
    ("barc", "simulation__"),
    ("codeio", "simulation__"),
    ("cruxeval", "simulation__"),
    ("hitab", "table__"),
    ("multihier", "table__"),
    ("finqa", "table__"),
    ("leetcode2k", "codegen__"),
    ("livecodebench", "codegen__"),
    ("primeintellect", "codegen__"),
    ("taco", "codegen__"),
    ("humaneval", "codegen__"),
    ("mbpp", "codegen__"),
    ("gpqa", "stem__"),
    ("supergpqa", "stem__"),
    ("ifeval", "ood__"),
    ("ifbench", "ood__"),
    ("livebench", "ood__"),
)
"""What a name without a domain is published under."""

MISFILED = (("logic__arcagi", "simulation__arcagi"), ("logic__barc", "simulation__barc"), ("stem__web", "stem_web"))
"""Names made from a file's name; the published rows have the other."""

COLUMNS = ("data_source", "prompt", "ability", "apply_chat_template", "reward_model", "extra_info", *KEPT_COLUMNS)


@dataclass(frozen=True)
class Converted:
    """A row of the one schema, the Problem that it stands for, and the name it had where it had to be mapped."""

    row: dict[str, Any]
    problem: Problem
    renamed_from: str = ""


def convert(raw: Mapping[str, Any], where: str = "") -> Converted:
    """A published row (or any with the same columns) as one that all files have in common.

    Columns that the schema does not have are kept in extra_info. Raises RowError naming the column.
    """
    source = raw.get("data_source")
    named = {**raw, "data_source": canonical(source, raw.get("prompt"))} if isinstance(source, str) else raw
    problem = problem_from_row(named, where=where)
    try:
        route(problem.data_source)
    except UnknownSource as unknown:
        raise RowError(where, "data_source", f"names no task that can be checked ({unknown})") from None
    extra = {key: value for key, value in problem.extra_info.items() if key not in KEPT_COLUMNS}
    extra |= {key: value for key, value in raw.items() if key not in COLUMNS and value is not None and key not in extra}
    reward = raw["reward_model"]
    row = {
        "data_source": problem.data_source,
        "prompt": [dict(message) for message in problem.messages],
        "ability": str(raw.get("ability") or problem.domain),
        "apply_chat_template": raw.get("apply_chat_template") is not False,
        "reward_model": {
            "style": str(reward.get("style") or "rule"),
            "ground_truth": problem.ground_truth,
            "encoding": "json",
        },
        "extra_info": json.dumps(extra, ensure_ascii=False, default=_as_text),
        **{key: _number(raw.get(key), key, where) for key in KEPT_COLUMNS},
    }
    return Converted(row, problem, source if source != problem.data_source else "")


def canonical(data_source: str, prompt: Any = None) -> str:
    """The published name of a data source.

    GPQA's two names say which answer format the prompt asks for, and its preprocessing swapped them: the prompt
    decides.
    """
    name = data_source
    for start, prefix in PREFIXES:
        if name.startswith(start):
            name = prefix + name
    for start, right in MISFILED:
        if name.startswith(start):
            name = right + name[len(start):]
    if name.startswith("stem__gpqa_diamond"):
        return "stem__gpqa_diamond" if "boxed" in str(prompt) else "stem__gpqa_diamond_no_box"
    return name


def pass_rates(raw: Mapping[str, Any], problem: Problem) -> list[float]:
    """The pass rates that a row has, under whatever name ends in pass_rate."""
    named = {**problem.extra_info, **raw}
    return [float(v) for k, v in named.items() if k.endswith("pass_rate") and isinstance(v, (int, float))]


def _number(value: Any, column: str, where: str) -> float | None:
    if value is None or (isinstance(value, (int, float)) and 0 <= value <= 1):
        return None if value is None else float(value)
    raise RowError(where, column, f"should hold a share from 0 to 1, not {str(value)[:40]!r}")


def _as_text(value: Any) -> Any:
    """What JSON has no word for: arrays as lists, times and the like as text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
