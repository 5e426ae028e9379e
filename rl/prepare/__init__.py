"""mode=prepare: data from the hub, from files or from generators, made ready for training; see `run`."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

from conf.checks import check_run_dir
from conf.errors import UserError
from conf.schema import Config
from rl.prepare.inputs import Input, inputs_of, located

FORMAT = 1  # of the output; another one is prepared anew


def run(cfg: Config) -> int:
    """Writes prepare.output: train.parquet (or shards), heldout.parquet where the source holds some out, card.md,
    card.json, rejects.jsonl. The folder appears when all of it is there.

    A run that was stopped goes on where it was with the same command; a folder that is ready already stays as it is.
    Raises UserError for inputs that cannot be read, an output that holds something else, and for nothing kept.
    """
    output = Path(cfg.prepare.output).expanduser()
    inputs = inputs_of(cfg)
    against = _against(cfg, inputs)
    fingerprint = _fingerprint(cfg, inputs, against)
    if _is_ready(output, fingerprint):
        shutil.rmtree(f"{output}.partial", ignore_errors=True)  # of a run killed after its last rename
        print(f"{output} is ready already: nothing to do (its card: {output / 'card.md'})")
        return 0
    check_run_dir(str(output.parent), "prepare.output")
    try:
        _prepare(cfg, output, inputs, against, fingerprint)
    except OSError as error:
        raise UserError(f"{error.filename or output}: {error.strerror or error}: make room or allow writing there, "
                        "then the same command goes on where it was") from error
    except KeyboardInterrupt:
        print(f"\ninterrupted: what was done is kept in {output}.partial; the same command goes on from there")
        return 130
    return 0


def _prepare(cfg: Config, output: Path, inputs: list[Input], against: list[Input], fingerprint: dict[str, Any]) -> None:
    from rl.prepare.steps import Steps

    with Steps(output, fingerprint) as steps:
        card = _work(cfg, steps, output, inputs, against, fingerprint)
    for split, part in card["splits"].items():
        outcomes = ", ".join(f"{count} {name}" for name, count in part["outcomes"].items())
        print(f"{split}: {part['read']} rows read: {outcomes}")
    files = [part["files"] for part in card["splits"].values() if part["files"]]
    named = [names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "") for names in files]
    print(f"{output}: {', '.join(named)}, card.md")


def _work(cfg: Config, steps: Any, output: Path, inputs: list[Input], against: list[Input], fingerprint: dict[str, Any]
          ) -> dict[str, Any]:
    """All inputs through the pipeline, then the output. Returns the card."""
    from rl.prepare.pipeline import Pipeline, evaluation_questions

    if steps.changed:
        print("the settings or inputs are not those of the run that was stopped: beginning anew")
    elif steps.records:
        print(f"going on after {sum(r.counts['read'] for r in steps.records)} rows that were done already")
    overlap = evaluation_questions(against, cfg.prepare.ngram)
    if len(overlap):
        print(f"compared with {sum(overlap.questions.values())} questions of {len(overlap.questions)} evaluation sets")
    Pipeline(cfg, steps, overlap, print).run(inputs)
    return _finish(cfg, steps, overlap, output, inputs, fingerprint)


def _finish(cfg: Config, steps: Any, overlap: Any, output: Path, inputs: list[Input], fingerprint: dict[str, Any]
            ) -> dict[str, Any]:
    """The output's files, written aside in steps.folder/final and moved to `output` in one go. Returns the card."""
    from rl.prepare.card import evaluation_card, write_card
    from rl.prepare.steps import to_disk

    final = steps.folder / "final"
    shutil.rmtree(final, ignore_errors=True)
    final.mkdir()
    splits = _splits(cfg, steps, [*dict.fromkeys(item.split for item in inputs)], final)
    if not splits["train"]["rows"]:
        why = ", ".join(f"{n} {name}" for name, n in splits["train"]["outcomes"].items() if n) or "no row was read"
        steps.remove()
        raise UserError(f"nothing is left to train on ({splits['train']['read']} rows read: {why}): "
                        "check prepare.input, prepare.min_pass, prepare.max_pass and data.domains")
    card = {"name": output.name, "format": FORMAT, "settings": fingerprint["settings"],
            "origin": sorted({_origin(item) for item in inputs}), "splits": splits,
            "evaluation": evaluation_card(overlap, cfg.prepare.ngram, splits["train"]["overlaps"]),
            "fingerprint": fingerprint}
    write_card(final, card)
    with open(final / "rejects.jsonl", "wb") as file:
        for record in steps.records:
            file.write(steps.file(record, "rejects.jsonl").read_bytes())
    for path in final.iterdir():
        to_disk(path)
    os.rename(final, output)
    steps.remove()
    return card


def _splits(cfg: Config, steps: Any, names: list[str], final: Path) -> dict[str, Any]:
    """Writes the files of each split; returns the card of each."""
    from rl.prepare.card import split_card, token_lengths
    from rl.prepare.finish import assemble, choose, kept_keys

    splits = {}
    for split in names:
        limit, heldout = (cfg.prepare.limit, cfg.prepare.heldout) if split == "train" else (0, 0)
        heldout = 0 if "heldout" in names else heldout
        chosen, apart = choose(kept_keys(steps, split), limit, heldout, cfg.data.seed)
        for name, masks in ((split, chosen), *([("heldout", apart)] if heldout else [])):
            files = assemble(steps, split, masks, name, final)
            part = splits[name] = split_card(steps, split, files, masks, heldout if name == split else 0)
            if files:
                part["tokens"] = token_lengths([final / file for file in files], cfg.model.path)
    return splits


def _origin(item: Input) -> str:
    """Where an input is from: a hub repository at its commit, a folder, a generator."""
    if item.state.startswith("/"):
        return str(Path(item.state.rsplit(" ", 2)[0]).parent)  # before the size and the time
    return item.state.partition(" ")[0]


def _against(cfg: Config, inputs: list[Input]) -> list[Input]:
    """The evaluation files: those named, and those that the source itself holds out (a generator's splits are apart
    by construction, and its questions are all of one wording)."""
    named = located(cfg.prepare.against, inputs, "prepare.against")
    own = [] if cfg.prepare.source in ("starter", "reasoning_gym") else [i for i in inputs if i.split == "heldout"]
    return list({(item.name, item.state): item for item in [*own, *named]}.values())


def _fingerprint(cfg: Config, inputs: list[Input], against: list[Input]) -> dict[str, Any]:
    """All that the output depends on."""
    settings = {name: value for name, value in dataclasses.asdict(cfg.prepare).items()
                if name not in ("input", "output", "against")}
    settings |= {"seed": cfg.data.seed, "on_bad_row": cfg.data.on_bad_row, "domains": sorted(cfg.data.domains)}
    files = {"inputs": [[item.split, item.name, item.state] for item in inputs],
             "against": sorted([item.name, item.state] for item in against)}
    return {"format": FORMAT, "settings": settings, **files}


def _is_ready(output: Path, fingerprint: dict[str, Any]) -> bool:
    """Whether `output` holds just this preparation. Raises UserError where it holds anything else."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return False
    try:
        known = json.loads((output / "card.json").read_text(encoding="utf-8")).get("fingerprint")
    except (OSError, ValueError):
        known = None
    if known == json.loads(json.dumps(fingerprint)):
        return True
    what = "another preparation" if known else "something else"
    raise UserError(f"prepare.output={output} holds {what} already: remove it, or give another folder")
