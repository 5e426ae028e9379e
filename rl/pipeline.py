"""mode=pipeline: stages one after the other, each a command of its own, in one run folder with one report.

A stage is a line of `pipeline.stages`, "NAME mode=... key=value ...", in which {NAME} stands for the folder of an
earlier stage, or of this one, and {NAME.hf} for an earlier one's newest checkpoint, as `model.path={sft.hf}`. What the
command line sets besides goes to every stage. A finished stage is noted and never repeated; one that was cut off goes
on by its own resume.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors import watchdog
from conf.checks import check_run_dir
from conf.errors import UserError, did_you_mean
from conf.load import load, resolve
from conf.schema import Config, keys, lookup
from rl.checkpoint import RunFolder, open_run, read_json, write_json

ROOT = Path(__file__).resolve().parent.parent
STATE_FILE = "pipeline.json"
OWN_KEYS = ("mode", "recipe", "run.dir", "run.name", "run.resume", "pipeline.stages")
REFERENCE = re.compile(r"\{(\w+)(\.hf)?\}")


@dataclass(frozen=True)
class Stage:
    """One command: its name, which is also its folder's, and its words with references still in them."""

    name: str
    words: tuple[str, ...]


def parse_stages(lines: Sequence[str]) -> list[Stage]:
    """The stages of `pipeline.stages`. UserError for a name that is taken or no name, and for a reference forward."""
    stages: list[Stage] = []
    for line in lines:
        name, *words = line.split()
        known = [stage.name for stage in stages]
        if not re.fullmatch(r"\w+", name) or name in known:
            raise UserError(f"pipeline.stages: '{line[:60]}' must begin with a name of its own: "
                            'write "sft mode=sft ..."')
        for match in REFERENCE.finditer(line):
            if match[1] not in (known if match[2] else [*known, name]):
                raise UserError(f"pipeline.stages: {match[0]} in stage {name} names no earlier stage"
                                f"{did_you_mean(match[1], known)} (earlier stages: {', '.join(known) or 'none'})")
        stages.append(Stage(name, tuple(words)))
    if not stages:
        raise UserError('pipeline.stages is empty: give stages, or use recipe=pipeline')
    return stages


def newest_hf(folder: Path) -> Path:
    """hf/ of a stage's newest checkpoint. UserError where it has none."""
    checkpoints = RunFolder(folder, resumed=True).checkpoints()
    if not checkpoints:
        raise UserError(f"{folder} holds no checkpoint that a later stage could begin from: run that stage first")
    return checkpoints[-1][1] / "hf"


def command_words(stage: Stage, root: Path, overrides: Sequence[str]) -> list[str]:
    """The stage's words with its references resolved, then what the command line set, then its folder."""

    def resolved(match: re.Match[str]) -> str:
        folder = root / match[1]
        return str(newest_hf(folder) if match[2] else folder)

    words = [REFERENCE.sub(resolved, word) for word in stage.words]
    return [*with_overrides(words, overrides), f"run.dir={root}", f"run.name={stage.name}", "run.resume=auto"]


def with_overrides(words: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """A stage's words, then those of the command line whose keys the stage does not set itself."""
    set_here = {word.partition("=")[0] for word in words}
    return [*words, *(word for word in overrides if word.partition("=")[0] not in set_here)]


def overrides_of(cfg: Config) -> list[str]:
    """The words key=value by which `cfg` differs from its recipe: what the command line set."""
    base = resolve([f"recipe={cfg.recipe}"])
    changed = {name: lookup(cfg, name) for name in keys() if lookup(cfg, name) != lookup(base, name)}
    return [f"{name}={json.dumps(value) if not isinstance(value, str) else value}"
            for name, value in changed.items() if name not in OWN_KEYS]


def stage_configs(cfg: Config) -> dict[str, Config]:
    """The configuration of each stage, earlier stages' results aside. UserError for a mistake in any of them."""
    overrides, found = overrides_of(cfg), {}
    for stage in parse_stages(cfg.pipeline.stages):
        words = [REFERENCE.sub(lambda match: f"{match[1]}/hf" if match[2] else match[1], word) for word in stage.words]
        try:
            found[stage.name] = load(with_overrides(words, overrides))
        except UserError as error:
            raise UserError(f"pipeline stage {stage.name}: {error}") from error
        if found[stage.name].mode == "pipeline":
            raise UserError(f"pipeline stage {stage.name} has no mode of its own: give it one, as mode=train")
    return found


class Pipeline:
    """The run of all stages; `state` is {stage: {"seconds", "words"}} of those that are done."""

    def __init__(self, cfg: Config, folder: RunFolder):
        self.folder, self.stages = folder, parse_stages(cfg.pipeline.stages)
        self.overrides = overrides_of(cfg)
        self.state: dict[str, Any] = read_json(folder.path / STATE_FILE) or {}

    def run(self) -> int:
        """Exit code of the first stage that fails (130: interrupted), else 0."""
        for number, stage in enumerate(self.stages, 1):
            if stage.name in self.state:
                print(f"stage {stage.name}: done already", flush=True)
                continue
            print(f"stage {number} of {len(self.stages)}: {stage.name}", flush=True)
            words = command_words(stage, self.folder.path, self.overrides)
            started = time.monotonic()
            code = run_stage(words)
            if code:
                return code
            self.state[stage.name] = {"seconds": time.monotonic() - started, "words": list(stage.words)}
            write_json(self.folder.path / STATE_FILE, self.state)
        return 0

    def write_summary(self, code: int) -> None:
        """summary.json: each stage's own summary under its name."""
        stages = {stage.name: stage_summary(self.folder.path / stage.name) for stage in self.stages
                  if stage.name in self.state}
        write_json(self.folder.path / "summary.json", {
            "run": self.folder.path.name,
            "interrupted": code != 0,
            "wall_s": sum(entry["seconds"] for entry in self.state.values()),
            "seconds": {name: entry["seconds"] for name, entry in self.state.items()},
            "stages": stages,
        })


def stage_summary(folder: Path) -> Mapping[str, Any]:
    """What the stage wrote about itself: summary.json of a run, card.json of prepared data, {} without either."""
    return read_json(folder / "summary.json") or read_json(folder / "card.json") or {}


def run_stage(words: Sequence[str]) -> int:
    """Run main.py with these words on this terminal; ctrl-C reaches it as it reaches us, and is waited for."""
    child = subprocess.Popen([sys.executable, str(ROOT / "main.py"), *words], cwd=Path.cwd())
    while True:
        try:
            code = child.wait()
            return code if code >= 0 else 128 - code  # as a shell tells of a signal
        except KeyboardInterrupt:  # the terminal sent it to the stage as well, which saves and ends by itself
            continue


def run(cfg: Config) -> int:
    """mode=pipeline. Exit code 0, or that of the stage that did not end well."""
    stage_configs(cfg)
    check_run_dir(cfg.run.dir)
    folder = open_run(cfg)
    pipeline = Pipeline(cfg, folder)
    watchdog.start()  # a killed pipeline takes its stage along
    folder.point_latest()
    with suppress(ValueError):  # not the main thread: a test
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    code = pipeline.run()
    pipeline.write_summary(code)
    shown = folder.path.relative_to(Path.cwd()) if folder.path.is_relative_to(Path.cwd()) else folder.path
    from rl.report.chain import write_chain

    report = write_chain(folder.path)
    if code:
        print(f"stopped in a stage (exit code {code}); go on with: "
              f"python main.py recipe={shown}/config.yaml run.resume={shown}", flush=True)
    print(f"report:      {shown / report.name}", flush=True)
    return code
