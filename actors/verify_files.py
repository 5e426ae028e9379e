"""`python main.py mode=verify verify.input=FILE verify.output=FILE`: verdicts on a file of answers.

Input: JSONL or parquet, rows of `data_source`, `response`, `ground_truth`, `extra_info` (optional), or plain pairs of
`gold`, `answer`, which are compared as mathematics. Output: JSONL, each row with `row` (its number, from 0), `status`,
`score`, `extracted`, `reason` and `seconds` added. A run that was interrupted goes on where it stopped: rows that the
output holds are skipped, a last line cut off in the middle is removed.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from actors.messages import Problem
from actors.verifier import VerifierPool, spawner
from conf.errors import UserError

_WHOLE_RESPONSE = ("\\boxed", "\\fbox", "<think>", "</think>", "<answer>")


def run(cfg: Any) -> int:
    """Verify the input file with all cores (or `verify.workers`); returns 0. Raises UserError."""
    source, target = Path(cfg.verify.input), Path(cfg.verify.output)
    if not cfg.verify.input or not cfg.verify.output:
        raise UserError("mode=verify needs two files: verify.input=FILE verify.output=FILE")
    if not source.is_file():
        raise UserError(f"verify.input={source}: no such file")
    if target.suffix == ".parquet" or target.is_dir():
        raise UserError(f"verify.output={target}: verdicts are written as JSONL, name a file like {target.stem}.jsonl")
    if source.resolve() == target.resolve():
        raise UserError("verify.output is the input file: give it another name")
    workers = cfg.verify.workers or os.cpu_count() or 1
    try:
        done = _repair(target)
    except OSError as failure:
        raise UserError(f"verify.output={target} cannot be written: {failure.strerror or failure}") from failure
    v, spawn = cfg.verifier, spawner(cfg.sandbox.allow_weaker, **cfg.verifier.options)
    pool = VerifierPool(workers, v.timeout_s, v.retries, spawn=spawn, limits=v.domain_limits)
    try:
        counts = asyncio.run(_verify(source, target, done, pool))
    except KeyboardInterrupt:
        print(f"interrupted: what is verified lies in {target}, and the same command goes on from there")
        return 130
    total = sum(counts.values())
    parts = ", ".join(f"{counts[status]} {status}" for status in ("correct", "incorrect", "error"))
    print(f"{total} rows verified ({parts}), {len(done)} were there already: {target}")
    return 0


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSONL or parquet file, in order, without holding the file in memory. Raises UserError."""
    if path.suffix == ".parquet":
        import pyarrow.parquet

        try:
            file = pyarrow.parquet.ParquetFile(path)
        except pyarrow.ArrowInvalid as failure:
            raise UserError(f"{path} is no parquet file: {failure}") from failure
        for batch in file.iter_batches(batch_size=256):
            yield from batch.to_pylist()
        return
    with path.open("rb") as lines:
        for number, line in enumerate(lines):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as failure:  # also where it is no UTF-8
                raise UserError(f"{path}, line {number + 1} is not JSON in UTF-8: {failure}") from failure
            if not isinstance(row, dict):
                raise UserError(f"{path}, line {number + 1} is no JSON object")
            yield row


def count_rows(path: Path) -> int | None:
    """How many rows a file has, without reading what they hold; None if it cannot be told before."""
    if path.suffix == ".parquet":
        import pyarrow.parquet

        try:
            return pyarrow.parquet.ParquetFile(path).metadata.num_rows
        except pyarrow.ArrowInvalid:  # read_rows says so to the user
            return None
    with path.open("rb") as file:
        return sum(not line.isspace() for line in file)


def problem_of(row: Mapping[str, Any], number: int, path: Path) -> tuple[Problem, str]:
    """(problem, text of the answer) of a row. Raises UserError naming the file, the row and the missing column."""
    if row.get("gold") is not None and row.get("answer") is not None:
        return _problem(number, "math", row["gold"], {}), as_response(str(row["answer"]), str(row.get("kind", "")))
    if "gold" in row or "data_source" not in row and "answer" in row:
        empty = "answer" if row.get("gold") is not None else "gold"
        raise UserError(f"{path}, row {number}: no {empty} (a pair needs gold and answer, neither of them null)")
    reward = row.get("reward_model")
    truth = row.get("ground_truth", reward.get("ground_truth") if isinstance(reward, Mapping) else None)
    for column, value in (
        ("data_source", row.get("data_source")),
        ("response", row.get("response")),
        ("ground_truth", truth),
    ):
        if value is None:
            raise UserError(
                f"{path}, row {number}: no column {column!r} (rows need data_source, response and ground_truth, "
                "or gold and answer)"
            )
    extra = row.get("extra_info") or {}
    try:
        extra = json.loads(extra) if isinstance(extra, str) else extra
    except ValueError:
        extra = None
    if not isinstance(extra, Mapping):
        raise UserError(f"{path}, row {number}: extra_info is no object, nor the JSON of one: leave it out, or mend it")
    return _problem(number, str(row["data_source"]), truth, extra), str(row["response"])


def _problem(number: int, data_source: str, truth: Any, extra: Mapping[str, Any]) -> Problem:
    question = {"role": "user", "content": ""}
    return Problem(f"row-{number}", (question,), data_source, "", json.dumps(truth), dict(extra))


def as_response(answer: str, kind: str) -> str:
    """A bare answer in the tags that a response would have it in; what is a response already stays as it is."""
    if kind.endswith("response") or any(mark in answer for mark in _WHOLE_RESPONSE):
        return answer
    return f"<answer>{answer}</answer>"


def _repair(target: Path) -> set[int]:
    """The numbers of the rows that the output holds already; cuts off a last line that was not written to its end."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        return set()
    done: set[int] = set()
    good = 0
    with target.open("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n"):
                break
            try:
                done.add(int(json.loads(line)["row"]))
            except (ValueError, KeyError, TypeError) as failure:
                raise UserError(
                    f"verify.output={target} is not the output of an earlier run: choose another"
                ) from failure
            good += len(line)
    os.truncate(target, good)
    return done


async def _verify(source: Path, target: Path, done: set[int], pool: VerifierPool) -> Counter[str]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    counts: Counter[str] = Counter()
    rows = ((number, row) for number, row in enumerate(read_rows(source)) if number not in done)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with target.open("a", encoding="utf-8") as out, Progress(*columns) as progress:
        total = count_rows(source)
        task = progress.add_task("verify", total=None if total is None else max(0, total - len(done)))

        async def consume() -> None:
            # one shared iterator: each consumer takes the next row when it is free, so memory stays small
            for number, row in rows:
                counts[await _one(pool, number, row, source, out)] += 1
                progress.advance(task)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(2 * pool.workers):  # twice as many as workers: one writes while the next is checked
                    group.create_task(consume())
        except* UserError as mistakes:
            raise mistakes.exceptions[0] from None
        finally:
            await pool.close()
    return counts


async def _one(pool: VerifierPool, number: int, row: Mapping[str, Any], source: Path, out: TextIO) -> str:
    problem, text = problem_of(row, number, source)
    verdict = await pool.verify(problem, text)
    result = {
        "status": verdict.status,
        "score": verdict.score,
        "extracted": verdict.extracted,
        "reason": verdict.reason,
        "seconds": round(verdict.seconds, 6),
    }
    out.write(json.dumps({**row, "row": number, **result}, default=str) + "\n")
    out.flush()
    return verdict.status
