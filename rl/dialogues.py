"""Dialogues: in files, as random access to their rows; as tokens and masks; and counted, in one pass over them.

A row has `messages`: [{"role": system | user | assistant, "content": text}, ...]. Files are .jsonl or .parquet. They
are read in blocks (a parquet row group; 256 lines) of which a few are kept, so a file is never in memory as a whole;
a parquet file should have row groups of some thousand rows at most.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from conf.errors import UserError

COLUMN = "messages"
ROLES = ("system", "user", "assistant")
ENDINGS = (".jsonl", ".parquet")
LINES = 256  # of a .jsonl file in one block
KEPT_ROWS = 12_000  # rows of the blocks that are kept decoded
ROWS_A_PROCESS = 3_000  # below which a further process costs more than it counts

Messages = Sequence[Mapping[str, str]]
Sample = dict[str, np.ndarray]


@dataclass(frozen=True)
class Block:
    """Rows that are read together. `at`: byte offset of the first line, or the row group; `first`: its row, from 1."""

    file: int
    first: int
    lines: int
    rows: int
    at: int


class Dialogues:
    """The rows of some files, by number: `dialogues[i]` are the messages of row i, checked.

    Raises UserError for missing files, other kinds of files, files without the column, and (when indexed) broken rows.
    """

    def __init__(self, paths: Sequence[str]):
        self.paths = [Path(p).expanduser() for p in paths]
        self.blocks = [block for n, path in enumerate(self.paths) for block in _blocks(n, path)]
        self.block_sizes = [block.rows for block in self.blocks]
        self._starts = np.concatenate([[0], np.cumsum(self.block_sizes)]).astype(np.int64)
        self._kept: OrderedDict[int, list[tuple[int, Any]]] = OrderedDict()

    @staticmethod
    def holds(path: str) -> bool:
        """Whether a file's first row has `messages`, and is therefore a dialogue and not a problem."""
        found = Path(path).expanduser()
        _check_file(found)
        if found.suffix == ".parquet":
            return COLUMN in _parquet(found).schema_arrow.names
        with found.open("rb") as f:
            line = next((line for line in f if line.strip()), b"{}")
        try:
            return COLUMN in json.loads(line)
        except ValueError:
            return False

    @staticmethod
    def files(paths: Sequence[str], split: str) -> list[str]:
        """The files that paths name; a folder, as mode=prepare makes them, stands for its files of the split."""
        found: list[str] = []
        for path in (Path(p).expanduser() for p in paths):
            if not path.is_dir():
                found.append(str(path))
                continue
            inside = sorted(p for p in path.iterdir() if p.name.startswith(split) and p.suffix in ENDINGS)
            if not inside:
                raise UserError(f"data.{split}={path} holds no {split}*.parquet or {split}*.jsonl: name the files "
                                "themselves, or a folder made by mode=prepare")
            found += map(str, inside)
        return found

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> Messages:
        number, row = self._row(index)
        return checked(row, self._where(index, number))

    def where(self, index: int) -> str:
        """The file and the row's number in it, for messages."""
        return self._where(index, self._row(index)[0])

    def key(self) -> str:
        """Changes with the files' names, sizes and times."""
        facts = [(str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns) for p in self.paths]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def _where(self, index: int, number: int) -> str:
        return f"{self.paths[self.blocks[self._block(index)].file]}, row {number}"

    def _block(self, index: int) -> int:
        return int(np.searchsorted(self._starts, index, side="right")) - 1

    def _row(self, index: int) -> tuple[int, Any]:
        number = self._block(index)
        if number in self._kept:
            self._kept.move_to_end(number)
        else:
            self._kept[number] = list(_read(self.paths[self.blocks[number].file], self.blocks[number]))
            while len(self._kept) > 1 and sum(map(len, self._kept.values())) > KEPT_ROWS:
                self._kept.popitem(last=False)
        return self._kept[number][index - int(self._starts[number])]


@dataclass(frozen=True)
class Survey:
    """`lengths` int32 [rows]: tokens of each dialogue, 0 where it is broken; `rejects`: what is wrong with those."""

    dialogues: Dialogues
    lengths: np.ndarray
    rejects: list[str]

    @property
    def shortest(self) -> int:
        return int(self.lengths[self.lengths > 0].min(initial=np.iinfo(np.int32).max)) if self.lengths.any() else 0


def survey(
    dialogues: Dialogues, tokenizer: Any, on_bad_row: str, cache: Path, note: Callable[[str], None] = lambda text: None
) -> Survey:
    """Count every dialogue's tokens; kept in `cache`, so that a resumed run need not count again.

    Raises UserError for the first broken row if `on_bad_row` is "refuse", and for files without a row.
    """
    if not len(dialogues):
        raise UserError(f"{', '.join(map(str, dialogues.paths))}: no rows: give files with dialogues")
    vocabulary = hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()
    key = hashlib.sha256(f"{dialogues.key()}{vocabulary}{tokenizer.chat_template}".encode()).hexdigest()[:24]
    path = cache / f"{key}.json"
    if path.is_file() and path.with_suffix(".npy").is_file():
        lengths, rejects = np.load(path.with_suffix(".npy")), json.loads(path.read_text())
    else:
        note(f"counting the tokens of {len(dialogues)} dialogues")
        lengths, rejects = _count(dialogues, tokenizer)
        cache.mkdir(parents=True, exist_ok=True)
        np.save(path.with_suffix(".npy"), lengths)
        path.write_text(json.dumps(rejects))  # last: where it is, the other is whole
    if rejects and on_bad_row == "refuse":
        raise UserError(f"{rejects[0]} ({len(rejects)} broken rows; data.on_bad_row=skip leaves them out)")
    return Survey(dialogues, lengths, rejects)


def checked(row: Any, where: str) -> Messages:
    """The messages of a row. Raises UserError with file, row and column where they are none."""
    if isinstance(row, UserError):
        raise row
    expected = f'a list of {{"role", "content"}}, roles {", ".join(ROLES)}, an assistant turn after another one'
    if not isinstance(row, Mapping) or row.get(COLUMN) is None:
        found = ", ".join(row) if isinstance(row, Mapping) else type(row).__name__
        raise UserError(f"{where}: column {COLUMN} is missing (columns found: {found or 'none'})")
    messages = row[COLUMN]
    if not isinstance(messages, list) or not messages:
        raise UserError(f"{where}: column {COLUMN} should hold {expected}, not {_short(messages)}")
    for m in messages:
        if not (isinstance(m, Mapping) and m.get("role") in ROLES and isinstance(m.get("content"), str)):
            raise UserError(f"{where}: column {COLUMN} should hold {expected}, not {_short(m)}")
    learnt = [m["content"] for m in messages[1:] if m["role"] == "assistant"]
    if not learnt or messages[0]["role"] == "assistant" or not all(text.strip() for text in learnt):
        raise UserError(f"{where}: column {COLUMN} should hold {expected}, and no empty one, not {_short(messages)}")
    return [{"role": m["role"], "content": m["content"]} for m in messages]


def encode(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> Sample:
    """tokens int32 [n] and mask float32 [n] of a dialogue by the model's chat template: 1 on all assistant turns.

    Each turn is cut where generation begins and right after the token that ends it, and the pieces are tokenized by
    themselves, as an engine sees them. What follows the last answer is left out. Raises UserError where the template
    shows a turn in another way once others follow (some drop old thinking), or where there is nothing to learn.
    """
    turns = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
    if not turns or turns[0] == 0:
        raise UserError("the dialogue has no assistant turn after another one: there is nothing to learn")
    tokens: list[int] = []
    mask: list[np.ndarray] = []
    whole, at = "", 0
    for i in turns:
        before = _render(tokenizer, messages[:i], True)
        if not before.startswith(whole[:at]):
            raise UserError(f"the chat template changes what it showed of an answer once turn {i} follows, so not "
                            "all turns can be learnt: give sft.template, or dialogues of one answer each")
        whole = _render(tokenizer, messages[: i + 1], False)
        if not whole.startswith(before):
            raise UserError("the chat template's generation prompt is not how it begins an assistant turn: "
                            "give another one by sft.template")
        pieces = before[at:], whole[len(before) :].rstrip()
        at = len(before) + len(pieces[1])
        context, answer = (tokenizer(p, add_special_tokens=False)["input_ids"] for p in pieces)
        if not answer or not _is_special(tokenizer, answer[-1]):
            answer.append(tokenizer.eos_token_id)  # a template without a mark for the end of a turn
        tokens += context + answer
        mask += [np.zeros(len(context), np.float32), np.ones(len(answer), np.float32)]
    return {"tokens": np.asarray(tokens, np.int32), "mask": np.concatenate(mask)}


def _is_special(tokenizer: Any, token: int) -> bool:
    known = tokenizer.added_tokens_decoder.get(token)
    return known is not None and known.special


def _render(tokenizer: Any, messages: Sequence[Mapping[str, str]], generation: bool) -> str:
    return tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=generation)


def _count(dialogues: Dialogues, tokenizer: Any) -> tuple[np.ndarray, list[str]]:
    work = [(dialogues.paths[b.file], b) for b in dialogues.blocks]
    workers = min(os.cpu_count() or 1, len(work), max(1, len(dialogues) // ROWS_A_PROCESS))
    if workers == 1:
        _set_tokenizer(tokenizer)
        parts = [_count_block(item) for item in work]
    else:
        context = get_context("spawn")
        with ProcessPoolExecutor(workers, context, _set_tokenizer, (tokenizer,)) as pool:
            parts = list(pool.map(_count_block, work))
    rejects = [text for _, found in parts for text in found]
    return np.concatenate([lengths for lengths, _ in parts]), rejects


_TOKENIZER: list[Any] = [None]


def _set_tokenizer(tokenizer: Any) -> None:
    """Once a process: with each block it would take longer to send than the block to count."""
    _TOKENIZER[0] = tokenizer


def _count_block(item: tuple[Path, Block]) -> tuple[np.ndarray, list[str]]:
    path, block = item
    lengths, rejects = [], []
    for number, row in _read(path, block):
        where = f"{path}, row {number}"
        try:
            lengths.append(len(encode(_TOKENIZER[0], checked(row, where))["tokens"]))
        except UserError as error:
            lengths.append(0)
            rejects.append(str(error) if str(error).startswith(str(path)) else f"{where}: {error}")
    return np.asarray(lengths, np.int32), rejects


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"{path}: no such file: check data.train and data.heldout (mode=prepare makes such files)")
    if path.suffix not in ENDINGS:
        raise UserError(f"{path}: dialogues are read from .jsonl and .parquet files: convert it to one of them")


def _blocks(file: int, path: Path) -> Iterator[Block]:
    _check_file(path)
    if path.suffix == ".parquet":
        parquet = _parquet(path)
        if COLUMN not in parquet.schema_arrow.names:
            raise UserError(f"{path}: column {COLUMN} is missing (columns found: "
                            f"{', '.join(parquet.schema_arrow.names)}): mode=prepare makes it")
        first = 1
        for group in range(parquet.num_row_groups):
            rows = parquet.metadata.row_group(group).num_rows
            yield Block(file, first, rows, rows, group)
            first += rows
        return
    with path.open("rb") as f:
        at, first = 0, 1
        lines = rows = size = 0
        for line in f:
            lines, rows, size = lines + 1, rows + bool(line.strip()), size + len(line)
            if rows == LINES:
                yield Block(file, first, lines, rows, at)
                at, first = at + size, first + lines
                lines = rows = size = 0
        if rows:
            yield Block(file, first, lines, rows, at)


def _read(path: Path, block: Block) -> Iterator[tuple[int, Any]]:
    """(row number, the row or what is wrong with it) of a block."""
    if path.suffix == ".parquet":
        table = _parquet(path).read_row_group(block.at, columns=[COLUMN])
        yield from enumerate(table.to_pylist(), start=block.first)
        return
    with path.open("rb") as f:
        f.seek(block.at)
        for number in range(block.first, block.first + block.lines):
            line = f.readline()
            if not line.strip():
                continue
            try:
                yield number, json.loads(line)
            except ValueError as error:
                yield number, UserError(f"{path}, row {number}: not JSON ({error}): write one JSON object a line")


def _parquet(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise UserError(f"{path}: not a readable parquet file ({error}): download or write it again") from error


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
