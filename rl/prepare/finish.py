"""From finished steps to the output's files: sampling, then train.parquet or its shards, all of it written aside."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rl.prepare.seen import mixed
from rl.prepare.steps import Record, Steps
from rl.prepare.writing import arrow_schema
from rl.problems.schema import batch_rows

ONE_FILE_BYTES = 256 << 20  # compressed; above, the steps' files become shards as they are


def choose(keys: Sequence[np.ndarray], limit: int, seed: int) -> list[np.ndarray]:
    """bool [rows] for each array: the `limit` rows (0: all) that come first in an order that only `seed` and the
    questions decide, so neither the order of files nor that of rows does."""
    total = sum(map(len, keys))
    if not limit or total <= limit:
        return [np.ones(len(part), bool) for part in keys]
    order = mixed(np.concatenate(keys), seed)
    chosen = np.zeros(total, bool)
    chosen[np.argsort(order, kind="stable")[:limit]] = True
    return np.split(chosen, np.cumsum([len(part) for part in keys])[:-1])


def assemble(steps: Steps, split: str, limit: int, seed: int, folder: Path) -> tuple[list[str], list[np.ndarray]]:
    """Writes the rows of a split into `folder`; returns the names of the files and which kept rows they hold."""
    records = [record for record in steps.records if record.split == split]
    chosen = choose([steps.arrays(record)["kept_asked"] for record in records], limit, seed)
    holding = [(record, mask) for record, mask in zip(records, chosen) if mask.any()]
    if not holding:
        return [], chosen
    whole = all(mask.all() for _, mask in holding)
    size = sum(steps.file(record, "rows.parquet").stat().st_size for record, _ in holding)
    if whole and size > ONE_FILE_BYTES:
        names = [f"{split}-{i:05d}-of-{len(holding):05d}.parquet" for i in range(len(holding))]
        for (record, _), name in zip(holding, names):
            _link(steps.file(record, "rows.parquet"), folder / name)
        return names, chosen
    return _copy(steps, holding, split, folder), chosen


def _link(source: Path, target: Path) -> None:
    """The same file under a second name, so that an interruption loses nothing; a copy where links are unknown."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _copy(steps: Steps, holding: Sequence[tuple[Record, np.ndarray]], split: str, folder: Path) -> list[str]:
    """The chosen rows into files of about ONE_FILE_BYTES."""
    import pyarrow.parquet as pq

    shards = _Shards(split, folder, arrow_schema(holding[0][0].kind))
    for record, mask in holding:
        at = 0
        with pq.ParquetFile(steps.file(record, "rows.parquet")) as file:
            for batch in file.iter_batches(batch_size=batch_rows(file.metadata)):
                shards.write(batch, mask[at : at + batch.num_rows])
                at += batch.num_rows
    return shards.close()


class _Shards:
    def __init__(self, split: str, folder: Path, schema: Any) -> None:
        self.split, self.folder, self.schema = split, folder, schema
        self.paths: list[Path] = []
        self._file: Any = None

    def write(self, batch: Any, mask: np.ndarray) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self._file is not None and self.paths[-1].stat().st_size > ONE_FILE_BYTES:
            self._file.close()
            self._file = None
        if self._file is None:
            self.paths.append(self.folder / f"{self.split}-{len(self.paths):05d}.parquet")
            self._file = pq.ParquetWriter(self.paths[-1], self.schema, compression="zstd", compression_level=1)
        rows = batch if mask.all() else batch.filter(pa.array(mask))
        if rows.num_rows:
            self._file.write_batch(rows)

    def close(self) -> list[str]:
        if self._file is not None:
            self._file.close()
        if len(self.paths) == 1:
            names = [f"{self.split}.parquet"]
        else:
            names = [f"{self.split}-{i:05d}-of-{len(self.paths):05d}.parquet" for i in range(len(self.paths))]
        for path, name in zip(self.paths, names):
            path.rename(self.folder / name)
        return names
