"""The way of every row: read, convert, filter, compare with what was there and with evaluation questions, keep.

Each row read ends in exactly one of the counts of OUTCOMES, so that a card always adds up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from conf.errors import UserError
from conf.schema import Config
from rl.prepare.inputs import Input
from rl.prepare.overlap import Overlap
from rl.prepare.reading import Batch
from rl.prepare.samples import SFT, Converter, Sample, exact_keys, loose_keys, question_of
from rl.prepare.seen import Seen
from rl.prepare.steps import KEYS, Step, Steps
from rl.problems.am_thinking import Malformed
from rl.problems.schema import RowError

OUTCOMES = ("kept", "broken", "malformed", "other domain", "pass rate", "exact duplicate", "same text",
            "contradiction", "in an evaluation set")


class Pipeline:
    """Takes all inputs through, a step at a time. Raises UserError for a broken row with data.on_bad_row=refuse."""

    def __init__(self, cfg: Config, steps: Steps, overlap: Overlap, tell: Callable[[str], None]) -> None:
        self.cfg, self.steps, self.overlap, self.tell = cfg, steps, overlap, tell
        self.convert = Converter(cfg)
        self.seen: dict[tuple[str, str], Seen] = {}
        self.kinds: dict[str, str] = {}
        for record in steps.records:
            arrays = steps.arrays(record)
            for name in KEYS:
                self._seen(record.split, name).new(arrays[name])
            if record.kind:
                self.kinds[record.split] = record.kind

    def run(self, inputs: Sequence[Input]) -> None:
        for item in inputs:
            done, complete = self.steps.position(item)
            if not complete:
                self._input(item, done)

    def _input(self, item: Input, done: int) -> None:
        step, started = self.steps.begin(item, done), time.monotonic()
        try:
            for batch in item.open(done):
                if step.full:
                    self._commit(step, started, last=False)
                    step, started = self.steps.begin(item, step.record.end), time.monotonic()
                self._batch(step, item, batch)
            self._commit(step, started, last=True)
        except BaseException:
            step.abandon()
            raise

    def _commit(self, step: Step, started: float, last: bool) -> None:
        record = self.steps.commit(step, last)
        rows, seconds = record.end - record.start, time.monotonic() - started
        self.tell(f"{record.split:<8}{record.input}: rows {record.start + 1} to {record.end}, "
                  f"{record.counts['kept']} kept, {rows / max(seconds, 1e-9):.0f} rows/s")

    def _batch(self, step: Step, item: Input, batch: Batch) -> None:
        if not batch:
            return
        step.record.counts["read"] += len(batch)
        step.record.end = batch[-1][0]
        samples = [sample for number, raw in batch if (sample := self._sample(step, item, number, raw)) is not None]
        if not samples:
            return
        samples, asked = self._new(step, samples)
        if item.split != "heldout" and len(self.overlap):
            samples, asked = self._clean(step, samples, asked)
        step.record.counts["kept"] += len(samples)
        if samples:
            step.keep(samples, asked)

    def _sample(self, step: Step, item: Input, number: int, raw: object) -> Sample | None:
        """The row as a Sample, or None where it is left out and counted."""
        where = f"{item.name}, row {number}"
        try:
            if isinstance(raw, RowError):
                raise raw
            sample = self.convert(raw, number, where, item.stem)
            self._check_kind(item.split, sample, where)
        except RowError as error:
            self._reject(step, number, error)
            return None
        if sample.renamed_from:
            step.record.renamed[f"{sample.renamed_from} -> {sample.group}"] += 1
        if self.cfg.data.domains and sample.domain and sample.domain not in self.cfg.data.domains:
            step.record.counts["other domain"] += 1
            return None
        if item.split == "train" and not self._of_use(sample.rates):
            step.record.counts["pass rate"] += 1
            return None
        return sample

    def _reject(self, step: Step, number: int, error: RowError) -> None:
        malformed = isinstance(error, Malformed)
        if not malformed and self.cfg.data.on_bad_row == "refuse":
            raise UserError(f"{error}: mend it, or leave such rows out with data.on_bad_row=skip") from error
        step.record.counts["malformed" if malformed else "broken"] += 1
        step.record.reasons[f"{error.column or 'row'}: {error.reason}"[:120]] += 1
        step.reject(number, error.column, error.reason)

    def _check_kind(self, split: str, sample: Sample, where: str) -> None:
        kind = self.kinds.setdefault(split, sample.kind)
        if kind != sample.kind:
            what = "a worked answer among problems" if kind != SFT else "a problem among worked answers"
            raise RowError(where, "prompt" if kind == SFT else "messages", f"makes this row {what}, which need a "
                                                                           "preparation of their own")

    def _of_use(self, rates: list[float]) -> bool:
        """Whether some model solves it often enough and none too often to learn from; rows without rates stay."""
        return not rates or (max(rates) >= self.cfg.prepare.min_pass and min(rates) <= self.cfg.prepare.max_pass)

    def _new(self, step: Step, samples: list[Sample]) -> tuple[list[Sample], np.ndarray]:
        """The samples that were not there before, and the hashes of what they ask."""
        asked, both = loose_keys(samples)
        first = self._first(step, "exact", exact_keys(samples))
        step.record.counts["exact duplicate"] += int((~first).sum())
        if step.record.split != "heldout":
            once = self._first(step, "asked", asked)
            other = once if samples[0].kind == SFT else self._first(step, "both", both)
            step.record.counts["same text"] += int((first & ~once & ~other).sum())
            step.record.counts["contradiction"] += int((first & ~once & other).sum())
            for index in np.flatnonzero(first & ~once & other):
                step.reject(samples[index].number, "reward_model", "asks what an earlier row asks, with another answer")
            first = first & once
        return [sample for sample, keep in zip(samples, first) if keep], asked[first]

    def _first(self, step: Step, name: str, keys: np.ndarray) -> np.ndarray:
        fresh = self._seen(step.record.split, name).new(keys)
        step.remember(name, keys[fresh])
        return fresh

    def _seen(self, split: str, name: str) -> Seen:
        return self.seen.setdefault((split, name), Seen())

    def _clean(self, step: Step, samples: list[Sample], asked: np.ndarray) -> tuple[list[Sample], np.ndarray]:
        """Without the samples that share words with an evaluation question."""
        keep = np.ones(len(samples), bool)
        for hit in self.overlap.hits([sample.question for sample in samples]):
            keep[hit.row] = False
            for name, _ in hit.sets:
                step.record.overlaps[name] += 1
            sets = ", ".join(f"{name} question {number}" for name, number in hit.sets)
            step.reject(samples[hit.row].number, "prompt", f"shares words with {sets}: {hit.words}")
        step.record.counts["in an evaluation set"] += int((~keep).sum())
        return [sample for sample, kept in zip(samples, keep) if kept], asked[keep]


def evaluation_questions(files: Sequence[Input], n: int) -> Overlap:
    """The questions of evaluation files; a row without a question raises UserError, naming it."""
    overlap = Overlap(n)
    for item in files:
        for batch in item.open(0):
            for number, raw in batch:
                try:
                    if isinstance(raw, RowError):
                        raise raw
                    overlap.add(item.stem, question_of(raw))
                except RowError as error:
                    raise UserError(f"{item.name}, row {number}: no evaluation question ({error}): mend the file or "
                                    "leave it out of prepare.against") from error
    return overlap.build()
