"""One verdict: what training and serving ask (`Verifier.verify`) and `mode=verify` on a file say the same of an answer.

The rows are the starter's, of all six domains, with right answers, with answers whose traces slipped, and with broken
ones: cut off, never closed, empty, in other words, with code where a value should be. The file goes through the command
line's own `main`, so its reading and writing of JSON are part of the comparison.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import main
from actors.messages import Problem, Verdict
from actors.sandbox.jail import Jail, WeakerSandbox
from actors.verifier import Verifier
from conf.load import load
from rl.problems.schema import problem_from_row
from rl.problems.starter import FAMILIES, make_row
from rl.problems.starter.slip import Slip

ROWS = 500
PROGRAMS_EVERY = 20  # of the rows: each of them is several runs in the sandbox
SLIP_RATE = 0.3

pytestmark = pytest.mark.process

Row = dict[str, Any]


def answered(count: int) -> Iterator[tuple[Row, str]]:
    """(row of Guru's schema, response), the domains in turn; programs are fewer."""
    rng = random.Random(0)
    quick = [domain for domain in FAMILIES if domain != "code"]
    for number in range(count):
        domain = "code" if number % PROGRAMS_EVERY == 0 else quick[number % len(quick)]
        instance = FAMILIES[domain].generate(rng)
        shape = number // len(quick) % 3
        response = FAMILIES[domain].solve(instance, Slip(rng, SLIP_RATE) if shape == 1 else Slip.none()).response
        yield make_row(domain, instance), broken(rng, response) if shape == 2 else response


def broken(rng: random.Random, response: str) -> str:
    """A response that holds no answer, or one that is hard to read."""
    answer = response.rpartition("<answer>")[2].removesuffix("</answer>")
    return rng.choice([
        response[: rng.randrange(len(response))], response.removesuffix("</answer>"), "", f"<think>{response}", answer,
        f"The answer is {answer}, I think.", rf"\boxed{{{answer}}}", rf"\boxed{{{answer}", f"{response} or not",
        f"```json\n{answer}\n```", f"<answer>\ud800{answer}\0</answer>", f"<answer>  {answer.upper()} .</answer>",
        f"{response}<answer>{answer}{answer}</answer>", f"<answer>__import__('os').abort() or {answer}</answer>",
    ])  # fmt: skip


def asked_directly(rows: list[tuple[Problem, str]], options: list[str]) -> list[Verdict]:
    """The verdicts of the actor's class, made as the training loop and the services make it."""
    cfg = load(options)
    v = cfg.verifier

    async def scenario() -> list[Verdict]:
        verifier = Verifier("verifier", 1, v.timeout_s, v.retries, cfg.sandbox.allow_weaker, **v.options)
        verdicts = await asyncio.gather(*(verifier.verify(problem, response) for problem, response in rows))
        await verifier.close()
        return verdicts

    return asyncio.run(scenario())


def asked_by_file(rows: list[tuple[Row, str]], folder: Path, options: list[str]) -> list[Row]:
    """What `python main.py mode=verify` writes about the same rows, in their order."""
    source, target = folder / "answers.jsonl", folder / "verdicts.jsonl"
    with source.open("w", encoding="utf-8") as file:
        for row, response in rows:
            truth = row["reward_model"]["ground_truth"]
            columns = {"data_source": row["data_source"], "response": response, "ground_truth": truth}
            file.write(json.dumps({**columns, "extra_info": row["extra_info"]}) + "\n")
    files = [f"verify.input={source}", f"verify.output={target}", "verify.workers=1"]
    assert main.main(["mode=verify", *files, *options]) == 0
    written = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    return sorted(written, key=lambda row: row["row"])


@pytest.mark.parametrize(("profile", "count"), [("strict", ROWS), ("guru", ROWS // 5)])
def test_the_same_answer_has_the_same_verdict(tmp_path: Path, profile: str, count: int) -> None:
    try:
        Jail().close()
    except WeakerSandbox as refusal:
        pytest.skip(str(refusal))
    rows, options = list(answered(count)), [f"verifier.profile={profile}"]
    direct = asked_directly([(problem_from_row(row), response) for row, response in rows], options)
    filed = asked_by_file(rows, tmp_path, options)

    assert len(direct) == len(filed) == count
    differing = [(rows[number], verdict, row) for number, (verdict, row) in enumerate(zip(direct, filed, strict=True))
                 if (verdict.status, verdict.score, verdict.extracted, verdict.reason)
                 != (row["status"], row["score"], row["extracted"], row["reason"])]  # fmt: skip
    assert differing == []
    statuses = Counter(verdict.status for verdict in direct)
    assert statuses["error"] == 0 and min(statuses["correct"], statuses["incorrect"]) > count // 5
    right = {row["extra_info"]["family"] for (row, _), verdict in zip(rows, direct, strict=True) if verdict.score == 1}
    assert right == set(FAMILIES)
