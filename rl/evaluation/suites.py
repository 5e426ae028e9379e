"""The benchmarks by name: where each lies on the hub, how its columns are read, and how a local copy takes its place.

`eval.suites=[NAME, NAME:SPLIT, PATH, ...]`. A name is looked for in `eval.local` first (NAME.parquet, NAME.jsonl,
NAME.csv or a folder NAME with such files), then on the hub, by `datasets`. A path holds rows in Guru's schema.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from actors.messages import Problem
from conf.errors import UserError, did_you_mean
from conf.schema import Config
from rl.evaluation import rows
from rl.problems.schema import load_problems, problem_from_row, read_rows

SUFFIXES = (".parquet", ".jsonl", ".csv")
GURU = "LLM360/guru-RL-92k"
GURU_FOLDER = "offline_eval"
REPEATED = re.compile(r"_repeated_(\d+)x")
MATH = "math"  # the group whose micro-average is the paper's composite score


@dataclass(frozen=True)
class Entry:
    """One benchmark. `read(row, name, number)` gives rows in Guru's schema; `files` are those of the hub to be read."""

    title: str
    hub: str
    split: str
    read: Callable[[Mapping[str, Any], str, int], Any]
    config: str = ""
    files: tuple[str, ...] = ()
    group: str = ""


ENTRIES: dict[str, Entry] = {
    "aime24": Entry("AIME 2024", "HuggingFaceH4/aime_2024", "train", rows.competition, group=MATH),
    "aime25": Entry("AIME 2025", "MathArena/aime_2025", "train", rows.competition, group=MATH),
    "hmmt25": Entry("HMMT 2025", "MathArena/hmmt_feb_2025", "train", rows.competition, group=MATH),
    "omni_math_hard": Entry("Omni-MATH-HARD", "KbsdJames/Omni-MATH", "test", rows.omni_math, group=MATH),
    "livecodebench": Entry(
        "LiveCodeBench v5", "livecodebench/code_generation_lite", "test", rows.livecodebench,
        files=("test.jsonl", "test2.jsonl", "test3.jsonl", "test4.jsonl", "test5.jsonl")),
    "scicode": Entry("SciCode", "SciCode1/SciCode", "validation", rows.scicode),
    "gpqa_diamond": Entry("GPQA-Diamond", "Idavidrein/gpqa", "train", rows.gpqa, config="gpqa_diamond"),
    "hle": Entry("Humanity's Last Exam", "cais/hle", "test", rows.hle),
}  # fmt: skip
BUILT_IN = ("starter", "guru_offline")
Fetch = Callable[[Entry], Iterator[Mapping[str, Any]]]


@dataclass(frozen=True)
class Suite:
    """Problems to be asked `samples` times each. `skipped` counts what was left out, by reason."""

    name: str
    title: str
    problems: tuple[Problem, ...]
    samples: int
    group: str = ""
    skipped: Mapping[str, int] | None = None


def load_suites(cfg: Config, fetch: Fetch | None = None) -> list[Suite]:
    """The suites of eval.suites; without any, the held-out problems of `data`. Raises UserError."""
    from rl.source import heldout

    if not cfg.eval.suites:
        problems = heldout(cfg, cfg.eval.problems, cfg.eval.seed)
        return [Suite("heldout", f"held-out problems ({cfg.data.source})", tuple(problems),
                      cfg.eval.samples)]
    found: list[Suite] = []
    for name in cfg.eval.suites:
        found += _load(name, cfg, fetch or from_hub)
    names = [suite.name for suite in found]
    if doubled := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"eval.suites holds {doubled} twice: name each suite once")
    return found


def _load(word: str, cfg: Config, fetch: Fetch) -> list[Suite]:
    samples = cfg.eval.samples
    if Path(word).suffix in SUFFIXES or Path(word).is_dir():
        return [_guru_file(path, samples, cfg.data.on_bad_row) for path in _data_files(Path(word))]
    name, _, split = word.partition(":")
    if name == "starter":
        from rl.problems import starter

        made = starter.problems("heldout", cfg.eval.seed, cfg.eval.problems, cfg.data.domains or None)
        return [Suite(name, "the starter's six families", tuple(problem_from_row(row) for row in made), samples)]
    if name == "guru_offline":
        files = _guru_files(cfg.eval.local)
        return [_guru_file(path, samples, cfg.data.on_bad_row) for path in files]
    if name not in ENTRIES:
        known = (*BUILT_IN, *ENTRIES)
        raise UserError(f"eval.suites: {name} is no suite{did_you_mean(name, known)} (suites: {', '.join(known)}; a "
                        "file of yours in Guru's schema: its path)")
    entry = replace(ENTRIES[name], split=split or ENTRIES[name].split)
    return [from_entry(name, entry, cfg, fetch)]


def from_entry(name: str, entry: Entry, cfg: Config, fetch: Fetch) -> Suite:
    """A benchmark from a local copy, else from the hub."""
    files = local_files(name, entry, cfg.eval.local)
    source = (row for path in files for row in _file_rows(path)) if files else fetch(entry)
    problems: dict[str, Problem] = {}
    skipped: dict[str, int] = {}
    for number, row in enumerate(source, start=1):
        where = f"{', '.join(map(str, files)) or entry.hub}, row {number}"
        try:
            made = entry.read(row, name, number)
        except rows.Skipped as reason:
            skipped[str(reason)] = skipped.get(str(reason), 0) + 1
            continue
        except (rows.MissingColumn, KeyError, TypeError, ValueError) as error:
            detail = str(error) if isinstance(error, rows.MissingColumn) else f"{type(error).__name__}: {error}"
            raise UserError(f"{where}: not a row of {entry.title}: {detail}") from error
        for one in made if isinstance(made, list) else [made]:
            problem = problem_from_row(one, where=where)
            if problem.id in problems:
                problem = replace(problem, id=f"{problem.id}#{number}")
            problems[problem.id] = problem
    if not problems:
        reasons = "; ".join(f"{count} rows: {reason}" for reason, count in skipped.items())
        raise UserError(f"{name}: no problem is left ({reasons or 'there are no rows'}): give another copy by "
                        "eval.local=[FOLDER] or leave the suite out")
    return Suite(name, entry.title, tuple(problems.values()), cfg.eval.samples, entry.group, skipped)


def local_files(name: str, entry: Entry, places: Sequence[str]) -> list[Path]:
    """The files of a local copy, [] where there is none. Raises UserError for a place that is not there."""
    for place in map(Path, places):
        if not place.exists():
            raise UserError(f"eval.local: {place} does not exist: give a folder (or file) with copies of the suites")
        if place.is_file() and place.stem == name:
            return [place]
        for suffix in SUFFIXES:
            if (place / f"{name}{suffix}").is_file():
                return [place / f"{name}{suffix}"]
        folder = next((f for f in (place / name, place / entry.hub.split("/")[1]) if f.is_dir()), None)
        if folder is not None:
            return _of_split(_data_files(folder), entry, folder)
    return []


def _of_split(files: list[Path], entry: Entry, folder: Path) -> list[Path]:
    """Of a copy of a whole data set, the files of the split (and of the configuration) that is wanted."""
    chosen = [f for f in files if f.name in entry.files] if entry.files else files
    chosen = [f for f in chosen if not entry.config or entry.config in str(f.relative_to(folder))]
    if len(chosen) > 1 and not entry.files:
        chosen = [f for f in chosen if f.stem.partition("-")[0] == entry.split]
    if not chosen:
        found = ", ".join(sorted(f.name for f in files)) or "none"
        raise UserError(f"{folder} holds no file of {entry.config or 'the'} split {entry.split} (files: {found}): name "
                        "the split as eval.suites=[NAME:SPLIT], or copy the file there")
    return chosen


def _data_files(place: Path) -> list[Path]:
    if not place.is_dir():  # a file, or one that is not there: its reader says so
        return [place]
    files = sorted(path for path in place.rglob("*") if path.suffix in SUFFIXES)
    if not files:
        raise UserError(f"{place} holds no {', '.join(SUFFIXES)} file: give the path of one")
    return files


def _file_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    if path.suffix != ".csv":
        yield from read_rows(path)
        return
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


# --- Guru's own files -----------------------------------------------------------------------------------------------


def _guru_files(places: Sequence[str]) -> list[Path]:
    for place in map(Path, places):
        for folder in (place / GURU_FOLDER, place / "guru_offline", place / GURU.split("/")[1] / GURU_FOLDER):
            if folder.is_dir():
                return _data_files(folder)
    from huggingface_hub import snapshot_download

    _told(GURU)
    try:
        root = snapshot_download(GURU, repo_type="dataset", allow_patterns=f"{GURU_FOLDER}/*")
    except Exception as error:  # the hub's client and its HTTP library raise a dozen kinds
        raise unreachable(GURU, error) from error
    return _data_files(Path(root) / GURU_FOLDER)


def _guru_file(path: Path, samples: int, on_bad_row: str) -> Suite:
    """A file in Guru's schema. A problem that a file repeats (`_repeated_8x`) is asked that many times as often."""
    problems, rejects = load_problems([path], on_bad_row)
    repeated = REPEATED.search(path.stem)
    once = {(p.question, p.ground_truth): p for p in reversed(problems)}
    chosen = tuple(reversed(once.values())) if repeated else tuple(problems)
    if not chosen:
        raise UserError(f"{path} holds no problem: give another file")
    skipped = {"a broken row": len(rejects)} if rejects else {}
    group = MATH if chosen[0].domain == "math" else ""
    return Suite(path.stem, path.stem.replace("__", ": ", 1), chosen,
                 samples * int(repeated[1] if repeated else 1), group, skipped)


# --- the hub --------------------------------------------------------------------------------------------------------


def from_hub(entry: Entry) -> Iterator[Mapping[str, Any]]:
    """The rows of an entry by `datasets`. Raises UserError, naming the local option, where that cannot be done."""
    import datasets

    _told(entry.hub)
    options: dict[str, Any] = {"split": entry.split}
    if entry.files:
        options["data_files"] = {entry.split: list(entry.files)}
    try:
        loaded = datasets.load_dataset(entry.hub, entry.config or None, **options)
    except Exception as error:  # the hub's client and its HTTP library raise a dozen kinds
        if "split" in str(error).lower() and isinstance(error, ValueError):
            raise UserError(f"{entry.hub} has no split {entry.split} ({_first_line(error)}): name one as "
                            "eval.suites=[NAME:SPLIT]") from error
        raise unreachable(entry.hub, error) from error
    return iter(loaded)


def _told(hub: str) -> None:
    """Say what is waited for: a hub out of reach is tried for half a minute, and its client's own warnings say less."""
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()
    print(f"reading {hub} from the hub", flush=True)


def unreachable(hub: str, error: Exception) -> UserError:
    return UserError(f"{hub} cannot be read from the hub ({type(error).__name__}: {_first_line(error)}): copy it into "
                     "a folder and give that by eval.local=[FOLDER], or go online (HF_TOKEN for gated sets)")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
