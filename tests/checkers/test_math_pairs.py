"""The policy of math.py as a table: pairs of a ground truth and an answer, judged by hand, kind by kind.

`equal` says whether the answer should count. The kinds that begin with `adv_` are hostile: bombs, injections, near
misses, unicode, undefined values, tricks. None of them may be taken for right, or fail to be judged.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from checker_problems import problem

from actors import checkers
from actors.verify_files import as_response

PAIRS = [json.loads(line) for line in (Path(__file__).parent / "math_pairs.jsonl").read_text().splitlines()]
KINDS: dict[str, list[dict[str, Any]]] = defaultdict(list)
for pair in PAIRS:
    KINDS[pair["kind"]].append(pair)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_pairs(kind: str) -> None:
    wrong = []
    for pair in KINDS[kind]:
        verdict = checkers.check(problem("math", pair["gold"]), as_response(pair["answer"], kind))
        if verdict.status != ("correct" if pair["equal"] else "incorrect"):
            wrong.append((pair["gold"], pair["answer"][:80], pair["equal"], verdict.status, verdict.reason))
    assert wrong == []


def test_the_table_is_large() -> None:
    assert len(PAIRS) > 1500 and all(len(pairs) >= 15 for pairs in KINDS.values())
