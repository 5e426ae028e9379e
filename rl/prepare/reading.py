"""The rows of a file, streamed: numbered from 1, each a row or what is wrong with it.

`datasets` does the reading, with two exceptions that it cannot do:
- It infers one Arrow type for all lines of a JSON file and stops in the middle where a later line has another. So
  JSON lines are streamed as lines of text (which it decompresses too) and parsed here, each by itself.
- It decodes a whole row group of a parquet file at a time and reads ahead; one of LiveCodeBench holds gigabytes, beyond
  what one Arrow array of text can address. So files with row groups above MAX_GROUP_BYTES are read by pyarrow, a few
  rows at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conf.errors import UserError
from rl.problems.schema import Row, RowError, batch_rows, row_of_line

SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz", ".jsonl.zst")
MAX_GROUP_BYTES = 64 << 20
BATCH_ROWS = 512
BUFFER = 1 << 20

Batch = list[tuple[int, Row | RowError]]


def batches(path: Path, name: str, skip: int = 0) -> Iterator[Batch]:
    """The rows of a file after the first `skip`, in batches; `name` is what messages call the file.

    Raises UserError for a file that cannot be read.
    """
    import pyarrow as pa

    number = 0
    try:
        for table in _tables(path):
            left = max(0, skip - number)
            first, number = number + left + 1, number + table.num_rows
            if left < table.num_rows:
                yield _rows(table.slice(left), first, name, path.suffix == ".parquet")
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError, EOFError) as error:
        raise UserError(f"{path}: cannot be read after row {number} ({_short(error)}): download or write it again, "
                        "or leave it out of prepare.input") from error


def _rows(table: Any, first: int, name: str, columns: bool) -> Batch:
    if columns:
        return list(enumerate(table.to_pylist(), start=first))
    lines = enumerate(table["text"].to_pylist(), start=first)
    return [(number, row_of_line(line, f"{name}, row {number}")) for number, line in lines if line.strip()]


def _tables(path: Path) -> Iterator[Any]:
    """Arrow tables (or record batches) of at most BATCH_ROWS rows."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        with pq.ParquetFile(path, buffer_size=BUFFER) as file:  # without, a whole column of the group is read
            size = min(BATCH_ROWS, 2 * batch_rows(file.metadata))
            groups = (file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
            if max(groups, default=0) > MAX_GROUP_BYTES:
                yield from file.iter_batches(batch_size=size)
                return
        yield from _datasets("parquet", path, size)
    else:
        yield from _datasets("text", path, BATCH_ROWS, encoding_errors="replace")


def _datasets(kind: str, path: Path, size: int, **options: Any) -> Iterator[Any]:
    import datasets

    stream = datasets.load_dataset(kind, data_files=[str(path)], split="train", streaming=True, **options)
    yield from stream.with_format("arrow").iter(batch_size=size)


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
