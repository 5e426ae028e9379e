"""From finished steps to the output's files: sampling, then train.parquet or its shards, all of it written aside."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from conf.errors import UserError
from rl.prepare.seen import mixed
from rl.prepare.steps import Record, Steps
from rl.prepare.writing import GROUP_BYTES, GROUP_ROWS, arrow_schema

ONE_FILE_BYTES = 256 << 20  # compressed; above, the steps' files become shards as they are


def choose(keys: Sequence[np.ndarray], limit: int, heldout: int, seed: int
           ) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """bool [rows] for each array, twice: the `limit` rows (0: all) to train on, and `heldout` others.

    The first and the last in an order that only `seed` and the questions decide, so neither the order of files nor
    that of rows does. Raises UserError where there are not enough rows to hold some out.
    """
    total = sum(map(len, keys))
    if heldout and heldout >= total:
        raise UserError(f"prepare.heldout={heldout} leaves nothing to train on: {total} rows are there; lower it")
    order = np.argsort(mixed(np.concatenate([np.zeros(0, np.uint64), *keys]), seed), kind="stable")
    masks = np.zeros((2, total), bool)
    masks[0, order[: min(limit or total, total - heldout)]] = True
    masks[1, order[total - heldout :]] = True
    train, apart = (np.split(mask, np.cumsum([len(part) for part in keys])[:-1]) for mask in masks)
    return train, apart


def records_of(steps: Steps, split: str) -> list[Record]:
    return [record for record in steps.records if record.split == split]


def kept_keys(steps: Steps, split: str) -> list[np.ndarray]:
    """For each step of a split, the hashes of what its kept rows ask."""
    return [steps.arrays(record)["kept_asked"] for record in records_of(steps, split)]


def assemble(steps: Steps, split: str, chosen: Sequence[np.ndarray], name: str, folder: Path) -> list[str]:
    """Writes the chosen ones of a split's kept rows as NAME.parquet or shards of it; returns the files' names."""
    holding = [(record, mask) for record, mask in zip(records_of(steps, split), chosen) if mask.any()]
    if not holding:
        return []
    whole = all(mask.all() for _, mask in holding)
    size = sum(steps.file(record, "rows.parquet").stat().st_size for record, _ in holding)
    if not whole or size <= ONE_FILE_BYTES:
        return _copy(steps, holding, name, folder)
    names = [f"{name}-{i:05d}-of-{len(holding):05d}.parquet" for i in range(len(holding))]
    for (record, _), file in zip(holding, names):
        _link(steps.file(record, "rows.parquet"), folder / file)
    return names


def _link(source: Path, target: Path) -> None:
    """The same file under a second name, so that an interruption loses nothing; a copy where links are unknown."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _copy(steps: Steps, holding: Sequence[tuple[Record, np.ndarray]], name: str, folder: Path) -> list[str]:
    """The chosen rows into files of about ONE_FILE_BYTES."""
    shards = _Shards(name, folder, arrow_schema(holding[0][0].kind))
    for record, mask in holding:
        for table in _row_groups(steps.file(record, "rows.parquet"), mask):
            shards.write(table)
    return shards.close()


def _row_groups(path: Path, mask: np.ndarray) -> Iterator[Any]:
    """The rows of a file that `mask` has, a row group at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    at = 0
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            part, at = mask[at : at + rows], at + rows
            if part.any():
                yield file.read_row_group(group).filter(pa.array(part))


class _Shards:
    """Files NAME-..., one after the other, with row groups like those of `Writer`."""

    def __init__(self, name: str, folder: Path, schema: Any) -> None:
        self.name, self.folder, self.schema = name, folder, schema
        self.paths: list[Path] = []
        self._file: Any = None
        self._waiting: list[Any] = []

    def write(self, table: Any) -> None:
        self._waiting.append(table)
        rows, size = sum(t.num_rows for t in self._waiting), sum(t.nbytes for t in self._waiting)
        if rows >= GROUP_ROWS or size >= GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self._file is not None and self.paths[-1].stat().st_size > ONE_FILE_BYTES:
            self._file.close()
            self._file = None
        if self._file is None:
            self.paths.append(self.folder / f"{self.name}-{len(self.paths):05d}.parquet")
            self._file = pq.ParquetWriter(self.paths[-1], self.schema, compression="zstd", compression_level=1)
        self._file.write_table(pa.concat_tables(self._waiting), row_group_size=GROUP_ROWS)
        self._waiting = []

    def close(self) -> list[str]:
        """The files' final names, which tell how many there are."""
        if self._waiting:
            self._flush()
        self._file.close()
        names = [f"{self.name}-{i:05d}-of-{len(self.paths):05d}.parquet" for i in range(len(self.paths))]
        names = [f"{self.name}.parquet"] if len(names) == 1 else names
        for path, name in zip(self.paths, names):
            path.rename(self.folder / name)
        return names
