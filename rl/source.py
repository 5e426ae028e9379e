"""What to ask next: an endless, seeded stream of training problems whose position survives a restart.

Files are a finite set, whose problems come again: what they are asked depends on how they went (`rl.curriculum`).
"""

from __future__ import annotations

import itertools
import pathlib
import random
from collections.abc import Iterator, Sequence
from typing import Any

from actors.messages import Problem, RolloutGroup
from conf.errors import UserError
from conf.schema import Config
from rl.curriculum import Curriculum
from rl.problems.schema import load_problems, problem_from_row

GYM_BLOCK = 512  # rows that reasoning_gym generates at a time


class Source:
    """`take(n)` gives the next n training problems; the same configuration gives the same stream.

    Raises UserError for missing files, broken rows (data.on_bad_row=refuse), and sources without any problem.
    """

    def __init__(self, cfg: Config):
        self._cfg, self.position, self.rejects = cfg, 0, []
        self.curriculum: Curriculum | None = None
        self._stream = self._open()

    def take(self, count: int) -> list[Problem]:
        self.position += count
        return list(itertools.islice(self._stream, count))

    def record(self, groups: Sequence[RolloutGroup]) -> dict[str, float]:
        """Tell how problems went, in the same order in every run; returns metrics (none where none come again)."""
        return self.curriculum.record(groups) if self.curriculum else {}

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {"position": self.position}
        return state | {"curriculum": self.curriculum.state_dict()} if self.curriculum else state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position saved by `state_dict`, from the start of the stream."""
        self._stream, self.position = self._open(), 0
        if self.curriculum:
            self.curriculum.load_state_dict(state["curriculum"])
            self.position = state["position"]
            return
        for _ in itertools.islice(self._stream, state["position"]):
            self.position += 1

    def _open(self) -> Iterator[Problem]:
        data = self._cfg.data
        if data.source == "starter":
            from rl.problems import starter

            rows = starter.problems("train", data.seed, 10**9, data.domains or None)
            return (problem_from_row(row) for row in rows)
        if data.source == "reasoning_gym":
            return _of_domains(self._gym(), data.domains)
        problems, self.rejects = load_problems(data_files(data.train, "data.train"), data.on_bad_row)
        chosen = [p for p in problems if not data.domains or p.domain in data.domains]
        if not chosen:
            raise UserError("data.train holds no problem of data.domains: give other files or leave data.domains empty")
        self.curriculum = Curriculum(chosen, self._cfg.curriculum, self._cfg.sampling.max_tokens, data.seed)
        return iter(self.curriculum.next, None)

    def _gym(self) -> Iterator[Problem]:
        from rl.problems import reasoning_gym

        data = self._cfg.data
        for block in itertools.count():
            for row in reasoning_gym.rows(data.tasks, "train", _gym_seed(data.seed, block), GYM_BLOCK):
                yield problem_from_row(row)


def _gym_seed(seed: int, block: int) -> int:
    """A seed of its own for each block: those of two of our seeds share none for half a million rows."""
    return (seed * 997 + block) % 20_000  # times the library's stride, it still fits into numpy's 32 bits


def heldout(cfg: Config, count: int, seed: int) -> list[Problem]:
    """`count` held-out problems, the same for the same arguments; all there are where files hold fewer."""
    data = cfg.data
    if data.source == "starter":
        from rl.problems import starter

        rows = starter.problems("heldout", seed, count, data.domains or None)
        return [problem_from_row(row) for row in rows]
    if data.source == "reasoning_gym":
        from rl.problems import reasoning_gym

        found = (problem_from_row(row) for row in reasoning_gym.rows(data.tasks, "heldout", seed, count))
        return list(_of_domains(found, data.domains))
    problems, _ = load_problems(data_files(data.heldout, "data.heldout"), data.on_bad_row)
    chosen = list(_of_domains(iter(problems), data.domains))
    if not chosen:
        raise UserError("data.heldout holds no problem of data.domains: give other files or leave data.domains empty")
    random.Random(seed).shuffle(chosen)
    return chosen[:count]


def _of_domains(problems: Iterator[Problem], domains: list[str]) -> Iterator[Problem]:
    return (p for p in problems if not domains or p.domain in domains)


def data_files(paths: list[str], key: str) -> list[pathlib.Path]:
    """The files that `paths` name; a folder, as mode=prepare makes them, stands for its files of the key's split."""
    if not paths:
        raise UserError(f"data.source=files needs {key}=[FILE,...]: .jsonl or .parquet in Guru's schema")
    split = key.rpartition(".")[2]
    return [file for path in paths for file in _files_of(pathlib.Path(path).expanduser(), split, key)]


def _files_of(path: pathlib.Path, split: str, key: str) -> list[pathlib.Path]:
    if not path.is_dir():
        return [path]
    found = sorted(p for p in path.iterdir() if p.name.startswith(split) and p.suffix in (".parquet", ".jsonl"))
    if not found:
        there = ", ".join(sorted(p.name for p in path.iterdir())[:6]) or "nothing"
        raise UserError(f"{key}={path} holds no {split}*.parquet or {split}*.jsonl (it holds {there}): "
                        "name the files themselves, or a folder made by mode=prepare")
    return found
