"""Samples to parquet: one Arrow schema for all problems, one for all worked answers, built column by column."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rl.prepare.samples import RL, Sample
from rl.problems.schema import KEPT_COLUMNS

GROUP_BYTES, GROUP_ROWS = 32 << 20, 2048  # text and rows of a row group: what random access decodes at a time


def arrow_schema(kind: str) -> Any:
    """The schema of the files that hold samples of a kind."""
    import pyarrow as pa

    chat = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    if kind != RL:
        return pa.schema([("messages", chat), ("subset", pa.string())])
    reward = pa.struct([("style", pa.string()), ("ground_truth", pa.string()), ("encoding", pa.string())])
    return pa.schema([
        ("data_source", pa.string()), ("prompt", chat), ("ability", pa.string()), ("apply_chat_template", pa.bool_()),
        ("reward_model", reward), ("extra_info", pa.string()), *((name, pa.float64()) for name in KEPT_COLUMNS),
    ])  # fmt: skip


class Writer:
    """A parquet file that grows by batches; a row group has at most GROUP_ROWS rows and about GROUP_BYTES."""

    def __init__(self, path: Path) -> None:
        self.path, self.kind = path, ""
        self._file: Any = None
        self._waiting: list[Sample] = []
        self._bytes = 0

    def add(self, samples: Sequence[Sample]) -> None:
        """Appends samples, all of the kind of the first."""
        for sample in samples:
            self._waiting.append(sample)
            self._bytes += len(sample.question) + len(sample.answer) + len(sample.row.get("extra_info", ""))
            if self._bytes >= GROUP_BYTES or len(self._waiting) == GROUP_ROWS:
                self.flush()

    def flush(self) -> None:
        import pyarrow.parquet as pq

        if not self._waiting:
            return
        if self._file is None:
            self.kind = self._waiting[0].kind
            self._file = pq.ParquetWriter(self.path, arrow_schema(self.kind), compression="zstd", compression_level=1)
        self._file.write_batch(_record_batch([sample.row for sample in self._waiting], self.kind))
        self._waiting, self._bytes = [], 0

    def close(self) -> None:
        """Ends the file; there is none where no sample came."""
        self.flush()
        if self._file is not None:
            self._file.close()


def _record_batch(rows: Sequence[dict[str, Any]], kind: str) -> Any:
    import pyarrow as pa

    schema = arrow_schema(kind)
    chat = "prompt" if kind == RL else "messages"
    columns = []
    for name, type_ in zip(schema.names, schema.types):
        values = [row[name] for row in rows]
        columns.append(_chats(values) if name == chat else pa.array(values, type_))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _chats(chats: Sequence[list[dict[str, str]]]) -> Any:
    """list<struct<role, content>> from flat columns: several times as fast as from the nested objects."""
    import pyarrow as pa

    offsets = np.concatenate([[0], np.cumsum([len(chat) for chat in chats])]).astype(np.int32)
    roles = pa.array([message["role"] for chat in chats for message in chat], pa.string())
    contents = pa.array([message["content"] for chat in chats for message in chat], pa.string())
    messages = pa.StructArray.from_arrays([roles, contents], ["role", "content"])
    return pa.ListArray.from_arrays(pa.array(offsets), messages)
