"""samples.jsonl of an evaluation: what was sampled, safe against a kill at any moment.

The first line says what is evaluated and how; every other line is one batch of samples, on disk (fsync) before
`append` returns. A batch is a whole wave, or a whole reply: a line cut short by a crash is removed when the file is
opened again, so a batch is there as a whole or not at all, and none is there twice.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from conf.errors import UserError

SAMPLES_FILE = "samples.jsonl"
PARQUET_ROWS = 256  # a row group of the export
Key = tuple[str, str, int]  # suite, problem, sample
Row = dict[str, Any]


class SampleStore:
    """`plan` is what the samples follow from: a resumed evaluation with another one is refused (UserError).

    `done` holds every stored sample without its text, by (suite, problem_id, sample).
    """

    def __init__(self, folder: Path, plan: Mapping[str, Any]) -> None:
        self.path, self.done = folder / SAMPLES_FILE, {}
        self._open(json.loads(json.dumps(plan)))
        self._file = self.path.open("a", encoding="utf-8")

    def append(self, rows: Sequence[Row]) -> None:
        """Store a batch. Raises ValueError for a sample that is there already."""
        repeated = [key for row in rows if (key := key_of(row)) in self.done]
        if repeated:
            raise ValueError(f"sampled twice: {repeated[0]}")
        self._file.write(json.dumps({"batch": list(rows)}) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._remember(rows)

    def rows(self, suite: str) -> Iterator[Row]:
        """The samples of a suite with their texts, read from disk in the order in which they were stored."""
        with self.path.open(encoding="utf-8") as lines:
            next(lines)
            for line in lines:
                yield from (row for row in json.loads(line)["batch"] if row["suite"] == suite)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> SampleStore:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _open(self, plan: Mapping[str, Any]) -> None:
        good = 0
        if self.path.exists():
            with self.path.open("rb") as lines:
                for number, line in enumerate(lines):
                    if not line.endswith(b"\n"):
                        break
                    self._read(number, line, plan)
                    good += len(line)
            os.truncate(self.path, good)
        if not good:
            self.path.write_text(json.dumps({"plan": plan}) + "\n", encoding="utf-8")

    def _read(self, number: int, line: bytes, plan: Mapping[str, Any]) -> None:
        try:
            value = json.loads(line)
            found = value["plan"] if number == 0 else value["batch"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.path}, line {number + 1} is no batch of samples: remove the file, or start anew "
                            "with run.resume=never") from error
        if number:
            self._remember(found)
        elif found != plan:
            different = sorted(name for name in {*found, *plan} if found.get(name) != plan.get(name))
            raise UserError(f"{self.path.parent.name} was begun with another {', '.join(different)}: give the same "
                            "settings and problems, or start a new run with run.resume=never")

    def _remember(self, rows: Sequence[Row]) -> None:
        self.done |= {key_of(row): {name: v for name, v in row.items() if name != "completion"} for row in rows}


def key_of(row: Mapping[str, Any]) -> Key:
    return row["suite"], row["problem_id"], row["sample"]


def export(store: SampleStore, suite: str, prompts: Mapping[str, str], path: Path) -> None:
    """The samples of a suite as parquet, with the prompts: at first beside `path`, then renamed to it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    aside, writer = path.with_name(f".{path.name}.tmp"), None
    path.parent.mkdir(parents=True, exist_ok=True)
    waiting: list[Row] = []

    def flush() -> None:
        nonlocal writer
        table = pa.Table.from_pylist(waiting, schema=None if writer is None else writer.schema)
        writer = writer or pq.ParquetWriter(aside, _nullable(table.schema))
        writer.write_table(table.cast(writer.schema))
        waiting.clear()

    for row in store.rows(suite):
        waiting.append({**row, "prompt": prompts.get(row["problem_id"], "")})
        if len(waiting) == PARQUET_ROWS:
            flush()
    if waiting:
        flush()
    if writer is not None:
        writer.close()
        aside.replace(path)


def _nullable(schema: Any) -> Any:
    """A column of nothing but nulls so far (as `confidence`) holds numbers later."""
    import pyarrow as pa

    return pa.schema([f.with_type(pa.float64()) if pa.types.is_null(f.type) else f for f in schema])
