"""The model that mode=sft starts from: model.path as it is, with another chat template, or made from scratch.

A template given by sft.template is put into a folder beside the run's checkpoints that links to the model's weights,
so that learner, engine and every checkpoint have the same one without a copy of the weights.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conf.checks import check_model_dir
from conf.errors import UserError
from conf.schema import Config
from rl.problems.starter.corpus import sft_examples

TOKENIZER_EXAMPLES, TOKENIZER_SEED = 6000, 11
TEMPLATES = Path(__file__).resolve().parent.parent / "assets" / "templates"
END_OF_TURN = "<|im_end|>"  # ChatML's


def template_path(name: str) -> Path:
    """The file of sft.template: one of assets/templates, or a path. UserError where there is none."""
    path = Path(name).expanduser() if name.endswith(".jinja") else TEMPLATES / f"{name}.jinja"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in TEMPLATES.glob("*.jinja")))
        raise UserError(f"sft.template={name}: no such chat template: use one of {known}, or the path of a .jinja file")
    return path


def starting_model(cfg: Config, run_folder: Path) -> str:
    """The folder or hub name that learners and engines load."""
    if not cfg.model.path:
        return str(_from_scratch(cfg, run_folder / "init"))
    check_model_dir(cfg.model.path, chat=not cfg.sft.template)
    if not cfg.sft.template:
        return cfg.model.path
    return str(with_template(_local(cfg.model.path), template_path(cfg.sft.template), run_folder / "init"))


def with_template(model: Path, template: Path, folder: Path) -> Path:
    """A folder of links to `model`'s files with the chat template as its own; answers end with the template's mark.

    Base models end texts with another token than ChatML ends turns with: without the change an engine would not stop.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    own = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json", "generation_config.json")
    for path in model.iterdir():
        if path.name not in own and path.is_file():
            os.symlink(path.resolve(), folder / path.name)
    text = template.read_text(encoding="utf-8")
    (folder / "chat_template.jinja").write_text(text, encoding="utf-8")
    settings = _json(model / "tokenizer_config.json")
    settings.pop("chat_template", None)
    generation = _json(model / "generation_config.json")
    if END_OF_TURN in text:
        settings["eos_token"] = END_OF_TURN
        generation["eos_token_id"] = _stop_ids(model, generation.get("eos_token_id"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1, ensure_ascii=False))
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=1))
    return folder


def _stop_ids(model: Path, known: Any) -> list[int]:
    """ChatML's end of turn, then what ended texts before. UserError where the vocabulary has no such token."""
    from transformers import AutoTokenizer

    end = AutoTokenizer.from_pretrained(model).get_vocab().get(END_OF_TURN)
    if end is None:
        raise UserError(f"the vocabulary of {model} has no {END_OF_TURN}, which sft.template ends turns with: "
                        "give a template of that model")
    others = known if isinstance(known, list) else [] if known is None else [known]
    return [end, *(i for i in others if i != end)]


def _local(path: str) -> Path:
    """The folder of a model, fetched from the hub where `path` is a name there."""
    if Path(path).expanduser().is_dir():
        return Path(path).expanduser()
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(path))


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _from_scratch(cfg: Config, folder: Path) -> Path:
    """A seeded model and a tokenizer of the starter's corpus."""
    if not (folder / "config.json").is_file():
        from rl.scratch import make_policy

        def texts() -> Iterator[str]:
            for example in itertools.islice(sft_examples(TOKENIZER_SEED), TOKENIZER_EXAMPLES):
                yield from (f"{m['role']}\n{m['content']}" for m in example.messages)

        make_policy(folder, cfg.model.init, texts(), cfg.seed, max(512, cfg.engine.max_model_len))
    return folder
