"""What a preparation has done so far: finished steps, each a folder that appeared by one rename.

A step is a stretch of one input's rows: the kept ones as parquet, the rejects as JSON lines, the hashes that later rows
are compared with, and its counts. A killed run leaves whole steps and one torn folder that nobody reads; the next run
with the same settings and inputs takes the steps and goes on behind them.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from conf.errors import UserError
from rl.prepare.inputs import Input
from rl.prepare.samples import Sample
from rl.prepare.writing import Writer

STEP_ROWS = 100_000
STEP_BYTES = 256 << 20  # of text
KEYS = ("exact", "asked", "both")


@dataclass
class Record:
    """A step's place and counts. Rows `start` to `end` (from 0, end excluded) of an input; `last`: its last step."""

    index: int
    split: str
    input: str
    state: str
    start: int
    end: int = 0
    last: bool = False
    kind: str = ""
    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    renamed: Counter[str] = field(default_factory=Counter)
    overlaps: Counter[str] = field(default_factory=Counter)
    groups: list[list[str]] = field(default_factory=list)


class Step:
    """One step being made."""

    def __init__(self, folder: Path, record: Record) -> None:
        self.record, self.folder = record, folder
        self._aside = folder.with_suffix(".torn")
        shutil.rmtree(self._aside, ignore_errors=True)
        self._aside.mkdir(parents=True)
        self._writer = Writer(self._aside / "rows.parquet")
        self._rejects = open(self._aside / "rejects.jsonl", "w", encoding="utf-8")  # noqa: SIM115 (closed in commit)
        self._keys: dict[str, list[np.ndarray]] = {name: [] for name in KEYS}
        self._kept: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
        self._groups: dict[tuple[str, str], int] = {}
        self.bytes = 0

    @property
    def full(self) -> bool:
        return self.record.end - self.record.start >= STEP_ROWS or self.bytes >= STEP_BYTES

    def reject(self, number: int, column: str, reason: str) -> None:
        line = {"file": self.record.input, "row": number, "column": column, "reason": reason}
        self._rejects.write(json.dumps(line, ensure_ascii=False) + "\n")

    def remember(self, name: str, keys: np.ndarray) -> None:
        """Hashes (of the kind `name`, see KEYS) that came for the first time in this step."""
        self._keys[name].append(keys)

    def keep(self, samples: list[Sample], asked: np.ndarray) -> None:
        """Rows of the result, with the hashes of their questions."""
        self._writer.add(samples)
        groups = [self._groups.setdefault((s.group, s.domain), len(self._groups)) for s in samples]
        lengths = [[len(s.question) for s in samples], [len(s.answer) for s in samples]]
        self._kept.append((asked, np.array(groups, np.uint16), *(np.array(n, np.uint32) for n in lengths)))
        self.bytes += sum(map(sum, lengths))

    def commit(self, last: bool) -> Record:
        """Ends the step: what it wrote is on the disk, whole, under its own name."""
        self._writer.close()
        self._rejects.close()
        self.record.last, self.record.kind = last, self._writer.kind
        self.record.groups = [list(names) for names in self._groups]
        types = (np.uint64, np.uint16, np.uint32, np.uint32)
        kept = [np.concatenate([np.zeros(0, t), *(part[i] for part in self._kept)]) for i, t in enumerate(types)]
        keys = {name: np.concatenate([np.zeros(0, np.uint64), *parts]) for name, parts in self._keys.items()}
        names = ("kept_asked", "group", "question", "answer")
        np.savez(self._aside / "arrays.npz", **dict(zip(names, kept)), **keys)
        (self._aside / "step.json").write_text(json.dumps(vars(self.record)), encoding="utf-8")
        for file in self._aside.iterdir():
            to_disk(file)
        os.rename(self._aside, self.folder)
        to_disk(self.folder.parent)
        return self.record

    def abandon(self) -> None:
        self._writer.close()
        self._rejects.close()
        shutil.rmtree(self._aside, ignore_errors=True)


class Steps:
    """The folder in which steps collect, OUTPUT.partial: one process at a time holds it, in `with`."""

    def __init__(self, output: Path, fingerprint: dict[str, Any]) -> None:
        self.folder = output.with_name(output.name + ".partial")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.folder / "lock", "w")  # noqa: SIM115 (held as long as the process lives)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"another preparation is writing {self.folder}: wait for it, or give another "
                            "prepare.output") from None
        self.changed = self._settle(fingerprint)
        self.records = self._load()

    def _settle(self, fingerprint: dict[str, Any]) -> bool:
        """Whether steps of other settings or inputs had to be thrown away."""
        path, wanted = self.folder / "settings.json", json.dumps(fingerprint, sort_keys=True)
        known = path.read_text(encoding="utf-8") if path.is_file() else None
        if known == wanted:
            return False
        begun = (self.folder / "steps" / "00000").is_dir()
        shutil.rmtree(self.folder / "steps", ignore_errors=True)
        path.write_text(wanted, encoding="utf-8")
        return begun

    def _load(self) -> list[Record]:
        folder = self.folder / "steps"
        folder.mkdir(exist_ok=True)
        records = []
        while (path := self._path(len(records))).is_dir():
            fields = json.loads((path / "step.json").read_text(encoding="utf-8"))
            counters = {name: Counter(fields[name]) for name in ("counts", "reasons", "renamed", "overlaps")}
            records.append(Record(**{**fields, **counters}))
        return records

    def _path(self, index: int) -> Path:
        return self.folder / "steps" / f"{index:05d}"

    def arrays(self, record: Record) -> dict[str, np.ndarray]:
        with np.load(self._path(record.index) / "arrays.npz") as file:
            return dict(file)

    def file(self, record: Record, name: str) -> Path:
        return self._path(record.index) / name

    def position(self, item: Input) -> tuple[int, bool]:
        """(rows of an input that finished steps hold, whether that is all of it)."""
        own = [r for r in self.records if (r.split, r.input, r.state) == (item.split, item.name, item.state)]
        return (own[-1].end, own[-1].last) if own else (0, False)

    def begin(self, item: Input, start: int) -> Step:
        index = len(self.records)
        return Step(self._path(index), Record(index, item.split, item.name, item.state, start, start))

    def commit(self, step: Step, last: bool) -> Record:
        self.records.append(step.commit(last))
        return self.records[-1]

    def remove(self) -> None:
        """Everything is in the output now."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Steps:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.records:
            self.remove()  # nothing that a later run could go on with
        self._lock.close()


def to_disk(path: Path) -> None:
    """Waits until a file, or a folder's list of names, would survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
