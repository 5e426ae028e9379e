"""What a preparation reads: files of this machine or of the hub, and generators, each with the split it belongs to."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from conf.checks import HUB_NAME
from conf.errors import UserError
from conf.schema import Config
from rl.prepare import hub
from rl.prepare.reading import SUFFIXES, Batch, batches
from rl.problems import am_thinking, guru

HELDOUT_FOLDERS = {*guru.EVALUATION, "heldout", "test", "validation", "eval"}
EVALUATION_FILES = (
    "math__math_500", "math__aime_repeated", "math__amc_repeated", "codegen__humaneval", "codegen__mbpp",
    "codegen__livecodebench_279", "logic__ordering_puzzle_dataset_100", "logic__zebra_puzzle_dataset_200",
    "logic__arcagi1_200", "simulation__codeio_200", "table__multihier_200", "table__hitab_200", "stem__supergpqa",
    "stem__gpqa", "simulation__cruxeval", "table__finqa", "ood__", "heldout", "test", "validation",
)  # fmt: skip
"""How the names of held-out files begin where no folder tells: Guru's evaluation files, and common words."""

DEFAULTS = {"guru": guru.REPO, "am_thinking": f"{am_thinking.REPO}@{am_thinking.REVISION}"}
GENERATED_ROWS, GENERATED_HELDOUT = 10_000, 1_000  # where prepare.limit does not say
GENERATED_BATCH = 256


@dataclass(frozen=True)
class Input:
    """One file, or one generator. `state` tells one state of it from another; `open(skip)` streams its rows."""

    name: str
    split: str
    state: str
    open: Callable[[int], Iterator[Batch]]

    @property
    def stem(self) -> str:
        """The file's name without folder and ending: what cards call a subset or an evaluation set."""
        return Path(self.name).name.partition(".")[0]


def inputs_of(cfg: Config) -> list[Input]:
    """All inputs in an order that does not depend on the order in which they were given: by split and name.

    Raises UserError for a path or name that is neither, for folders without data, and for a missing train split.
    """
    source = cfg.prepare.source
    if source in ("starter", "reasoning_gym"):
        return _generated(cfg)
    given = cfg.prepare.input or [DEFAULTS[source]]
    found = [item for word in given for item in _located(word, named=bool(cfg.prepare.input))]
    unique = {(item.name, item.state): item for item in found}
    chosen = sorted(unique.values(), key=lambda item: (item.split, item.stem, item.name))
    if not any(item.split == "train" for item in chosen):
        there = sorted({item.split + ": " + item.name for item in chosen})
        raise UserError(f"prepare.input={given} has no train split (it holds {len(there)} held-out files, such as "
                        f"{there[0]}): give the folder that holds train/, with its files under their published names")
    return chosen


def located(words: Sequence[str], inputs: Sequence[Input], key: str) -> list[Input]:
    """The files that prepare.against names: a file, a folder, a pattern, or part of a held-out file's name in the
    folders of prepare.input. Raises UserError for a name that fits nothing."""
    found: list[Input] = []
    for word in words:
        named = [item for item in inputs if item.split == "heldout" and word in item.stem]
        pattern = any(sign in word for sign in "*?[")
        paths = sorted(Path().glob(word)) if pattern and not word.startswith("/") else (
            sorted(Path("/").glob(word[1:])) if pattern else [Path(word).expanduser()])
        there = [item for path in paths if path.exists() for item in _local(path, key)]
        if not there and not named:
            near = ", ".join(item.stem for item in inputs if item.split == "heldout") or "none"
            raise UserError(f"{key}: {word} is no file, no folder, and no held-out file of prepare.input ({near}): "
                            "give a .parquet or .jsonl file with the evaluation's questions")
        found += there or named
    return list({item.name: item for item in found}.values())


def split_of(name: str) -> str:
    """"train" or "heldout", by a file's folder, else by its name."""
    *folders, file = Path(name).parts
    for folder in reversed(folders):
        if folder in HELDOUT_FOLDERS:
            return "heldout"
        if folder in guru.TRAIN:
            return "train"
    return "heldout" if file.startswith(EVALUATION_FILES) else "train"


def _located(word: str, named: bool) -> list[Input]:
    """The files of a path or of a name on the hub; `named` by the user, who may have mistyped a path."""
    path = Path(word).expanduser()
    if path.exists():
        return _local(path, "prepare.input")
    repo, _, revision = word.partition("@")
    if not HUB_NAME.fullmatch(repo) or path.parent.is_dir() and path.parent != Path():
        raise UserError(f"prepare.input={word}: no such file or folder here, nor a dataset's name on the hub "
                        "(OWNER/NAME or OWNER/NAME@REVISION): correct it")
    try:
        commit, names = hub.listing(repo, revision)
    except UserError as error:
        if not named:
            raise
        raise UserError(f"prepare.input={word} is no file or folder here, and {error}") from error
    usable = [name for name in names if name.endswith(SUFFIXES)]
    if not usable:
        raise UserError(f"{repo} holds no {', '.join(SUFFIXES)} file: give another dataset by prepare.input=[NAME]")
    return [_of_hub(repo, commit, name) for name in usable]


def _of_hub(repo: str, commit: str, name: str) -> Input:
    def opened(skip: int) -> Iterator[Batch]:
        return batches(hub.fetch(repo, commit, name), name, skip)

    return Input(name, split_of(name), f"{repo}@{commit}", opened)


def _local(path: Path, key: str) -> list[Input]:
    """A file, or all files below a folder; their names are relative to the folder."""
    if path.is_file():
        if not path.name.endswith(SUFFIXES):
            raise UserError(f"{key}={path}: only {', '.join(SUFFIXES)} are read: convert it to one of them")
        return [_of_file(path, path.name)]
    files = sorted(p for p in path.rglob("*") if p.name.endswith(SUFFIXES) and p.is_file() and not _aside(p, path))
    if not files:
        raise UserError(f"{key}={path} holds no {', '.join(SUFFIXES)} file: give the folder that does")
    return [_of_file(file, str(file.relative_to(path))) for file in files]


def _aside(file: Path, folder: Path) -> bool:
    """Hidden, or a preparation that is not finished."""
    return any(part.startswith(".") or part.endswith(".partial") for part in file.relative_to(folder).parts)


def _of_file(path: Path, name: str) -> Input:
    stat = path.stat()
    where = path.resolve()
    state = f"{where} {stat.st_size} {stat.st_mtime_ns}"
    return Input(name, split_of(name), state, lambda skip: batches(where, name, skip))


def _generated(cfg: Config) -> list[Input]:
    from rl.problems import reasoning_gym, starter

    data, count = cfg.data, cfg.prepare.limit or GENERATED_ROWS
    heldout = min(GENERATED_HELDOUT, count)
    if cfg.prepare.source == "reasoning_gym":
        def rows(split: str, wanted: int) -> Iterator[dict]:
            return reasoning_gym.rows(data.tasks, split, data.seed, wanted)
    else:
        def rows(split: str, wanted: int) -> Iterator[dict]:
            return starter.problems(split, data.seed, wanted, data.domains or None)

    name, state = cfg.prepare.source, f"{cfg.prepare.source} {data.seed} {data.tasks} {data.domains}"
    made = [Input(name, "heldout", f"{state} {heldout}", lambda skip: _numbered(rows("heldout", heldout), skip)),
            Input(name, "train", f"{state} {count}", lambda skip: _numbered(rows("train", count), skip))]
    if name == "starter":
        made.append(Input(name, "sft", f"{state} {count}", lambda skip: _numbered(_worked(data.seed, count), skip)))
    return made


def _worked(seed: int, count: int) -> Iterator[dict]:
    """The starter's worked answers, slips and all (see its corpus)."""
    from rl.problems.starter.corpus import sft_examples

    for example in itertools.islice(sft_examples(seed), count):
        yield {"messages": [dict(message) for message in example.messages], "subset": example.domain}


def _numbered(rows: Iterator[dict], skip: int) -> Iterator[Batch]:
    numbered = itertools.islice(enumerate(rows, start=1), skip, None)
    while batch := list(itertools.islice(numbered, GENERATED_BATCH)):
        yield batch
