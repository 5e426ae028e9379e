"""Which checker judges which `data_source`.

The names are those of the published Guru files, together with the ones its preprocessing writes without a prefix and
the ones filed under another domain (ARC and BARC rows say `simulation__`, the web-STEM rows `stem_web`).
The longest matching prefix wins, so `simulation__arcagi1` is a logic row although `simulation__` is not.
In the `guru` profile the checkers of guru.py take the place of those for the rows that Guru has.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable

from actors.checkers import code, cruxeval, guru, gym, judge, logic, math, safety, science, simulation, tabular
from actors.checkers.tools import NotSupported, Tools
from actors.messages import Problem, Verdict

Check = Callable[[Problem, str, Tools], Verdict]


def without_checker(problem: Problem, text: str, tools: Tools) -> Verdict:
    """Known names of sets whose checkers (verifiable instructions, LiveBench's tasks) are not part of this version."""
    raise NotSupported(f"there is no checker for {problem.data_source!r} in this version: leave its rows out")


PREFIXES: dict[str, Check] = {
    "math": math.check,
    "aime": math.check,
    "amc": math.check,
    "openai/gsm8k": math.check,
    "lighteval/MATH": math.check,
    "HuggingFaceH4/MATH": math.check,
    "codegen": code.check,
    "stem__": science.check,
    "stem_web": judge.check,
    "stem__web": judge.check,
    "logic__": logic.check,
    "graph_logical": logic.check,
    "ordering_puzzle": logic.check,
    "zebra_puzzle": logic.check,
    "arcagi": logic.check,
    "barc": logic.check,
    "simulation__arcagi": logic.check,
    "simulation__barc": logic.check,
    "simulation__codeio": simulation.check,
    "simulation__cruxeval": cruxeval.check,
    "simulation__starter": simulation.check,
    "codeio": simulation.check,
    "table": tabular.check,
    "reasoning_gym": gym.check,
    "safety__": safety.check,
    **dict.fromkeys(("ood__ifeval", "ood__ifbench", "ood__livebench"), without_checker),
}
GURU: dict[str, Check] = {
    **PREFIXES,
    **guru.PREFIXES,
    **{name: guru.boxed(PREFIXES[name]) for name in ("stem_web", "stem__web")},
    "math__starter": math.check,  # rows of this project's own, in its own format
    "codegen__starter": code.check,
    "table__starter": tabular.check,
}
# Whole names, for the hint to whoever misspelt one.
NAMES = [
    "math__merged_deduped_dapo_or1_dataset", "math__deepscaler_preview", "math__aime_repeated_8x",
    "math__amc_repeated_4x", "math__math", "math__minerva", "math__olympiad_bench", "codegen__leetcode2k",
    "codegen__livecodebench", "codegen__primeintellect", "codegen__taco", "codegen__humaneval", "codegen__mbpp",
    "simulation__codeio", "simulation__cruxeval-i", "simulation__cruxeval-o", "simulation__arcagi1",
    "simulation__arcagi2", "simulation__barc", "logic__zebra_puzzle_dataset", "logic__ordering_puzzle_dataset",
    "logic__graph_logical_dataset", "table__hitab", "table__multihier", "table__finqa", "stem__gpqa_diamond",
    "stem__gpqa_diamond_no_box", "stem__supergpqa",
]  # fmt: skip


class UnknownSource(Exception):
    """No checker is registered for a data_source."""


def route(data_source: str, profile: str = "strict") -> Check:
    """The checker for a data_source. Raises UnknownSource, naming the closest known name."""
    checks = GURU if profile == "guru" else PREFIXES
    matching = [prefix for prefix in checks if data_source.startswith(prefix)]
    if matching:
        return checks[max(matching, key=len)]
    close = difflib.get_close_matches(data_source, [*NAMES, *checks], n=1, cutoff=0.3)
    hint = f": did you mean {close[0]!r}?" if close else ""
    raise UnknownSource(f"no checker for data_source {data_source!r}{hint}")
