"""What mode=sft learns from: dialogues as tokens and masks, in batches whose every sample follows from its number.

A source has `steps`, and `batches(start)` gives the batches from step `start` on: the same ones whether a run was
broken in between or not, so that the number of completed steps is all that a checkpoint has to keep.

- The starter's corpus is generated and endless.
- Files hold one dialogue a row (`messages`, see rl.dialogues). They are surveyed once: every dialogue's length is
  counted, broken rows are told, those longer than the context are left out and counted (never cut off: a dialogue
  without its end teaches not to end). Order and cut then follow from the lengths, the seed and the epoch alone.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from actors.messages import Problem
from conf.errors import UserError
from conf.schema import Config
from rl.dialogues import Dialogues, Sample, Survey, encode, survey
from rl.packing import packed_rows
from rl.problems.starter.corpus import sft_examples
from rl.source import heldout

SEED, VALIDATION_SEED = 3, 12
VALIDATION_EXAMPLES = 300
WINDOW = 4096  # rows that are shuffled among each other, after whole blocks of rows were


class StarterSource:
    """Generated worked answers: `sft.steps` batches of at least `sft.batch_tokens` tokens."""

    def __init__(self, cfg: Config, tokenizer: Any):
        self.steps, self._tokens, self._tokenizer = cfg.sft.steps, cfg.sft.batch_tokens, tokenizer
        self.facts: dict[str, Any] = {}

    def batches(self, start: int) -> Iterator[list[Sample]]:
        examples = sft_examples(SEED)

        def batch() -> list[Sample]:
            rows, tokens = [], 0
            while tokens < self._tokens:
                rows.append(encode(self._tokenizer, next(examples).messages))
                tokens += len(rows[-1]["tokens"])
            return rows

        for step in range(self.steps):
            rows = batch()
            if step >= start:
                yield rows

    def validation(self) -> list[Sample]:
        examples = itertools.islice(sft_examples(VALIDATION_SEED), VALIDATION_EXAMPLES)
        return [encode(self._tokenizer, x.messages) for x in examples]


class FileSource:
    """Dialogues of files, `sft.epochs` times over (0: until `sft.steps`), shuffled in each epoch.

    A batch is what packs into `sft.batch_tokens` / `sft.context` rows, whether it is then packed or not.
    `facts` are counts for the summary. Raises UserError for files without a usable dialogue.
    """

    def __init__(self, cfg: Config, tokenizer: Any, train: Survey, held: Survey | None = None):
        self._cfg, self._tokenizer, self._dialogues = cfg, tokenizer, train.dialogues
        self._lengths = usable_lengths(cfg, train, "data.train")
        self._heldout = held
        self._order = self._in_order()
        rows = cfg.sft.batch_tokens // context(cfg)
        ends = batch_ends(self._lengths[self._order].tolist(), rows, context(cfg), whole=bool(cfg.sft.epochs))
        self._ends = ends if cfg.sft.epochs else ends[: cfg.sft.steps]
        self.steps = len(self._ends)
        self.facts = facts(cfg, train) | ({"heldout": facts(cfg, held)} if held else {})

    def batches(self, start: int) -> Iterator[list[Sample]]:
        begins = [0, *self._ends]
        for step in range(start, self.steps):
            yield [self._sample(int(i)) for i in self._order[begins[step] : begins[step + 1]]]

    def validation(self) -> list[Sample]:
        """The first usable held-out dialogues."""
        if self._heldout is None:
            return []
        lengths = usable_lengths(self._cfg, self._heldout, "data.heldout")
        chosen = np.flatnonzero(lengths)[:VALIDATION_EXAMPLES]
        return [encode(self._tokenizer, self._heldout.dialogues[int(i)]) for i in chosen]

    def _sample(self, index: int) -> Sample:
        sample = encode(self._tokenizer, self._dialogues[index])
        if len(sample["tokens"]) != self._lengths[index]:
            raise UserError(f"{self._dialogues.where(index)} has changed since the run began: start a new run with "
                            "run.resume=never")
        return sample

    def _in_order(self) -> np.ndarray:
        """The rows of all epochs one after the other, those left out removed."""
        sft, total = self._cfg.sft, int(self._lengths.sum())
        epochs = sft.epochs or 1 + -(-sft.steps * sft.batch_tokens // total)  # no batch has more than batch_tokens
        found = []
        for epoch in range(epochs):
            order = shuffled(self._dialogues.block_sizes, self._cfg.data.seed, epoch)
            found.append(order[self._lengths[order] > 0])
        return np.concatenate(found)


def usable_lengths(cfg: Config, found: Survey, key: str) -> np.ndarray:
    """Tokens of each dialogue, 0 where it is broken or longer than the context. UserError where none is left."""
    limit = context(cfg)
    lengths = np.where(found.lengths <= limit, found.lengths, 0)
    if not lengths.any():
        raise UserError(f"{key} holds no dialogue of at most {limit} tokens ({len(lengths)} rows, the shortest usable "
                        f"one has {found.shortest}): raise sft.context or give other files")
    return lengths


def context(cfg: Config) -> int:
    """The longest sample, and the length of a packed row, in tokens."""
    return cfg.sft.context or cfg.engine.max_model_len


def facts(cfg: Config, found: Survey) -> dict[str, Any]:
    """Counts of a survey: what is learnt from and what is left out, by reason."""
    fits = found.lengths[(found.lengths > 0) & (found.lengths <= context(cfg))]
    long = int((found.lengths > context(cfg)).sum())
    return {
        "dialogues": len(fits),
        "tokens": int(fits.sum()),
        "longest": int(found.lengths.max(initial=0)),
        "left_out": {f"longer than {context(cfg)} tokens": long, "broken rows": len(found.rejects)},
        "broken": found.rejects[:20],
    }


def shuffled(block_sizes: Sequence[int], seed: int, epoch: int, window: int = WINDOW) -> np.ndarray:
    """Row numbers in the order of one epoch: blocks shuffled, then rows within windows of at least `window` rows.

    So a file is read block by block, a few blocks at a time, and still well mixed.
    """
    rng = random.Random(f"{seed}/{epoch}")
    starts = np.concatenate([[0], np.cumsum(block_sizes)])
    blocks = list(range(len(block_sizes)))
    rng.shuffle(blocks)
    result: list[int] = []
    part: list[int] = []
    for n, block in enumerate(blocks, start=1):
        part += range(int(starts[block]), int(starts[block + 1]))
        if len(part) >= window or n == len(blocks):
            rng.shuffle(part)
            result += part
            part = []
    return np.asarray(result, np.int64)


def batch_ends(lengths: Sequence[int], rows: int, row_tokens: int, whole: bool) -> list[int]:
    """Where batches end: each takes the next samples for as long as they pack into `rows` rows of `row_tokens`.

    So ranks get equally many full rows, packed or not. No sample is longer than a row. `whole`: the last batch takes
    what is left; else that is left out.
    """
    total, ends, start = np.cumsum(lengths), [], 0
    while start < len(lengths):
        before = int(total[start - 1]) if start else 0
        most = int(np.searchsorted(total, before + rows * row_tokens, side="right"))
        end = start + _most_that_fit(lengths[start:most], rows, row_tokens)
        if end == len(lengths) and not whole:
            break
        ends.append(end)
        start = end
    return ends


def _most_that_fit(lengths: Sequence[int], rows: int, row_tokens: int) -> int:
    """How many samples from the first on fit into the rows: down by the excess, then by halves."""

    def needed(count: int) -> int:
        return len(packed_rows(lengths[:count], row_tokens))

    fits, fails = len(lengths), len(lengths) + 1
    while fits > 1 and (found := needed(fits)) > rows:
        fits, fails = max(1, min(fits - 1, fits * rows // found)), fits
    while fails - fits > 1:
        middle = (fits + fails) // 2
        fits, fails = (middle, fails) if needed(middle) <= rows else (fits, middle)
    return fits


def validation_problems(cfg: Config) -> list[Problem]:
    """Held-out problems for pass@1: the source's own, or those of the held-out files that hold problems, if any."""
    if cfg.data.source != "files":
        return heldout(cfg, cfg.sft.val_problems, cfg.eval.seed)
    paths = [path for path in Dialogues.files(cfg.data.heldout, "heldout") if not Dialogues.holds(path)]
    if not paths:
        return []
    return heldout(replace(cfg, data=replace(cfg.data, heldout=paths)), cfg.sft.val_problems, cfg.eval.seed)


def open_source(cfg: Config, tokenizer: Any, note: Any = lambda text: None) -> StarterSource | FileSource:
    """What `data` names. Raises UserError for missing or broken files, and for a source without worked answers."""
    if cfg.data.source == "starter":
        return StarterSource(cfg, tokenizer)
    if cfg.data.source != "files":
        raise UserError(f"mode=sft has worked answers for data.source=starter and files, not {cfg.data.source}")
    cache = Path(cfg.run.dir).expanduser() / ".surveys"
    train = survey(Dialogues(Dialogues.files(cfg.data.train, "train")), tokenizer, cfg.data.on_bad_row, cache, note)
    paths = [path for path in Dialogues.files(cfg.data.heldout, "heldout") if Dialogues.holds(path)]
    held = survey(Dialogues(paths), tokenizer, cfg.data.on_bad_row, cache, note) if paths else None
    return FileSource(cfg, tokenizer, train, held)
