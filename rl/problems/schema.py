"""One row schema for every source of problems, Guru's, and the way from a row to a Problem.

A row is `{data_source, prompt: [{role, content}], ability, apply_chat_template, reward_model: {style, ground_truth},
extra_info}`. Guru's files disagree about the type of `ground_truth` (text, list, struct, float), so a Problem carries
it as a JSON string, and files are read one by one: they have no common Arrow schema.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from actors.messages import DOMAINS, Problem
from conf.errors import UserError

Row = dict[str, Any]

EXACT_DOMAINS = {
    "graph_logical_dataset": "logic",
    "ordering_puzzle_dataset": "logic",
    "zebra_puzzle_dataset": "logic",
}
"""Sources whose name has no domain prefix."""

PREFIX_DOMAINS = (
    ("simulation__arcagi", "logic"),
    ("simulation__barc", "logic"),
    ("codegen", "code"),
    ("simulation", "simulation"),
    ("logic", "logic"),
    ("table", "tabular"),
    ("stem", "science"),
    ("math", "math"),
    ("aime", "math"),
    ("amc", "math"),
    ("gsm8k", "math"),
    ("openai/gsm8k", "math"),
    ("lighteval/MATH", "math"),
    ("HuggingFaceH4/MATH", "math"),
    ("ood", "logic"),
)
"""The first prefix that fits decides: Guru files its ARC sets under logic, though their rows say simulation.

Its out-of-domain evaluation sets (IFEval, IFBench, LiveBench) are none of the six; they are counted with logic."""

ROLES = ("system", "user", "assistant")
KEPT_COLUMNS = ("qwen2.5_7b_pass_rate", "qwen3_30b_pass_rate")
BATCH_ROWS = 256
BATCH_BYTES = 16 << 20  # of a parquet file decoded at a time


class RowError(UserError):
    """One row that cannot be used: `column` is what is wrong with it and `reason` why; the message says where too."""

    def __init__(self, where: str, column: str, reason: str) -> None:
        super().__init__(f"{_prefix(where)}column {column} {reason}")
        self.column, self.reason = column, reason


class LineError(RowError):
    """A line that is no row at all: no column is to blame."""

    def __init__(self, where: str, reason: str) -> None:
        UserError.__init__(self, f"{_prefix(where)}{reason}")
        self.column, self.reason = "", reason


def domain_of(data_source: str, extra_info: Mapping[str, Any] | None = None, *, where: str = "") -> str:
    """The domain (one of messages.DOMAINS) of a data source; reasoning_gym's rows name theirs in extra_info.domain.

    Raises RowError for a source that fits no known name or prefix.
    """
    if data_source == "reasoning_gym":
        named = (extra_info or {}).get("domain", "logic")
        _require(named in DOMAINS, where, "extra_info.domain", f"one of {', '.join(DOMAINS)}", named)
        return named
    if data_source in EXACT_DOMAINS:
        return EXACT_DOMAINS[data_source]
    for prefix, domain in PREFIX_DOMAINS:
        if data_source.startswith(prefix):
            return domain
    prefixes = "math, codegen, stem, logic, simulation, table"
    raise _broken(where, "data_source", f"reasoning_gym or a name that starts with one of {prefixes}", data_source)


def problem_from_row(row: Mapping[str, Any], *, where: str = "") -> Problem:
    """The Problem that a row stands for. `where` (a file and a row number) begins every error message.

    The ground truth is always JSON-encoded, so `Problem.truth` gives back the value of the file, arrays as lists.
    The id is the source with extra_info's id, index or idx, else the sha1 of source and prompt.
    extra_info may be an object or its JSON text. Raises RowError naming the broken column and what it should hold.
    """
    _require(isinstance(row, Mapping), where, "row", "an object with columns", row)
    source = _column(row, "data_source", where)
    _require(isinstance(source, str) and source != "", where, "data_source", "a name such as math__starter", source)
    messages = _messages(_plain(_column(row, "prompt", where)), where)
    reward = _plain(_column(row, "reward_model", where))
    has_truth = isinstance(reward, dict) and reward.get("ground_truth") is not None
    _require(has_truth, where, "reward_model", 'an object with "ground_truth"', reward)
    extra = _extra_info(row, where)
    return Problem(
        id=_identity(source, messages, extra),
        messages=messages,
        data_source=source,
        domain=domain_of(source, extra, where=where),
        ground_truth=_ground_truth(reward, where),
        extra_info=extra,
    )


def read_rows(path: str | Path) -> Iterator[Row]:
    """The rows of a .jsonl or .parquet file, streamed: the file is never in memory as a whole.

    Raises UserError when the file is missing or of another kind, or when a line is not a JSON object.
    """
    for _, row in numbered(Path(path)):
        if isinstance(row, UserError):
            raise row
        yield row


def load_problems(
    paths: Sequence[str | Path], on_bad_row: Literal["refuse", "skip"] = "refuse"
) -> tuple[list[Problem], list[str]]:
    """All problems of the files in order, and one message for each row that was skipped.

    With "refuse" the first broken row raises UserError. Ids are made unique: a second problem with an id that is
    taken gets the hash of its text appended, since Guru's indexes repeat across the files of one source.
    """
    problems: dict[str, Problem] = {}
    rejects: list[str] = []
    for path in paths:
        for number, row in numbered(Path(path)):
            try:
                if isinstance(row, UserError):
                    raise row
                _add(problems, problem_from_row(row, where=_where(path, number)))
            except UserError as error:
                if on_bad_row == "refuse":
                    raise
                rejects.append(str(error))
    return list(problems.values()), rejects


def write_parquet(rows: Sequence[Row], path: str | Path) -> None:
    """Writes rows as Guru publishes them: ground_truth in its own type where one Arrow type fits the whole file.

    Where none does (text beside lists), it is written as JSON text, and `reward_model.encoding` says "json".
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    plain = [_plain(row) for row in rows]
    if not _one_arrow_type([row["reward_model"]["ground_truth"] for row in plain]):
        plain = [{**row, "reward_model": _encoded(row["reward_model"])} for row in plain]
    pq.write_table(pa.Table.from_pylist(plain), path)


def write_jsonl(rows: Sequence[Row], path: str | Path) -> None:
    """Writes rows as JSON lines."""
    with open(path, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(_plain(row), ensure_ascii=False) + "\n")


def numbered(path: Path) -> Iterator[tuple[int, Row | RowError]]:
    """(row number from 1, the row or what is wrong with it): a broken line does not end the reading."""
    if not path.is_file():
        raise UserError(f"{path}: no such file: check the path in data.train or data.heldout")
    if path.suffix == ".jsonl":
        yield from _jsonl_rows(path)
    elif path.suffix == ".parquet":
        yield from enumerate(_parquet_rows(path), start=1)
    else:
        raise UserError(f"{path}: problems are read from .jsonl and .parquet files: convert it to one of them")


def _jsonl_rows(path: Path) -> Iterator[tuple[int, Row | RowError]]:
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, row_of_line(line, _where(path, number))


def row_of_line(line: str | bytes, where: str) -> Row | RowError:
    """The row that a line of a JSONL file holds, or what is wrong with it."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return LineError(where, f"not JSON ({error}): write one JSON object a line")
    if not isinstance(row, dict):
        return LineError(where, f"expected a JSON object, found {type(row).__name__}")
    return row


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=batch_rows(file.metadata)):
                yield from batch.to_pylist()
    except pa.ArrowInvalid as error:
        raise UserError(f"{path}: not a readable parquet file ({error}): download or write it again") from error


def batch_rows(metadata: Any) -> int:
    """How many rows of a parquet file to decode at a time: fewer where they are large (tests of programs are MBs)."""
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    heaviest = max((g.total_byte_size / max(1, g.num_rows) for g in groups), default=1.0)
    return int(min(BATCH_ROWS, max(1, BATCH_BYTES // max(1.0, heaviest))))


def _add(problems: dict[str, Problem], problem: Problem) -> None:
    name = problem.id
    if name in problems:
        name = f"{problem.id}#{_sha1(problem.question + problem.ground_truth)[:8]}"
    numbered = (f"{name}#{number}" for number in itertools.count(2))  # for rows that are the same in all
    name = next(each for each in itertools.chain([name], numbered) if each not in problems)
    problems[name] = replace(problem, id=name)


def _messages(prompt: Any, where: str) -> tuple[dict[str, str], ...]:
    expected = 'a list of {"role", "content"} with a user message'
    _require(isinstance(prompt, list) and len(prompt) > 0, where, "prompt", expected, prompt)
    for message in prompt:
        well_formed = (
            isinstance(message, dict) and message.get("role") in ROLES and isinstance(message.get("content"), str)
        )
        _require(well_formed, where, "prompt", f"{expected}, roles {', '.join(ROLES)}", message)
    _require(any(m["role"] == "user" for m in prompt), where, "prompt", expected, prompt)
    return tuple({"role": m["role"], "content": m["content"]} for m in prompt)


def _extra_info(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """extra_info without its empty keys (parquet fills what other rows have), and the published pass rates."""
    extra = _plain(row.get("extra_info"))
    if isinstance(extra, str):
        try:
            extra = json.loads(extra) if extra else None
        except ValueError:
            raise _broken(where, "extra_info", "an object, its JSON text, or nothing", extra) from None
    _require(extra is None or isinstance(extra, dict), where, "extra_info", "an object, or nothing", extra)
    kept = {key: _plain(row[key]) for key in KEPT_COLUMNS if row.get(key) is not None}
    return {**{key: value for key, value in (extra or {}).items() if value is not None}, **kept}


def _ground_truth(reward: dict[str, Any], where: str) -> str:
    truth = reward["ground_truth"]
    if reward.get("encoding") == "json":
        try:
            truth = json.loads(truth)
        except (TypeError, ValueError):
            raise _broken(where, "reward_model.ground_truth", 'JSON text, as its encoding "json" says', truth) from None
    return json.dumps(truth, ensure_ascii=False)


def _identity(source: str, messages: tuple[dict[str, str], ...], extra: Mapping[str, Any]) -> str:
    for key in ("id", "index", "idx"):
        if extra.get(key) is not None:
            return f"{source}:{extra[key]}"
    return f"{source}:{_sha1(json.dumps([source, messages], ensure_ascii=False))}"


def _plain(value: Any) -> Any:
    """The value in Python's own types: arrays as lists, numpy numbers as numbers, bytes as text."""
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _one_arrow_type(values: list[Any]) -> bool:
    """Whether the values come back from one Arrow column exactly as they went in."""
    import pyarrow as pa

    try:
        back = pa.array(values).to_pylist()
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return False
    return json.dumps(back) == json.dumps(values)


def _encoded(reward: Mapping[str, Any]) -> Row:
    return {**reward, "ground_truth": json.dumps(reward["ground_truth"], ensure_ascii=False), "encoding": "json"}


def _column(row: Mapping[str, Any], name: str, where: str) -> Any:
    if row.get(name) is None:
        found = ", ".join(row) or "none"
        raise RowError(where, name, f"is missing (columns found: {found})")
    return row[name]


def _require(holds: bool, where: str, column: str, expected: str, found: Any) -> None:
    if not holds:
        raise _broken(where, column, expected, found)


def _broken(where: str, column: str, expected: str, found: Any) -> RowError:
    shown = repr(found)
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    return RowError(where, column, f"should hold {expected}, not {shown}")


def _where(path: str | Path, number: int) -> str:
    return f"{path}, row {number}"


def _prefix(where: str) -> str:
    return f"{where}: " if where else ""


def _sha1(text: str) -> str:
    return hashlib.sha1(text.encode()).hexdigest()
