"""The text of `python main.py --help`: written from the schema and the recipes, so that it cannot go out of date."""

from __future__ import annotations

from pathlib import Path

from conf.load import CONF_DIR, names
from conf.schema import GROUPS, Key, keys

USAGE = "python main.py mode=sft|train|eval|verify|prepare|serve|pipeline [recipe=NAME] [group=NAME] [key=value ...]"
MODE_HELP = {
    "train": "improve a policy by reinforcement learning with verifiable rewards (the default)",
    "sft": "train a policy on worked examples",
    "eval": "measure a policy on held-out problems",
    "verify": "judge a file of answers: verify.input=FILE verify.output=FILE",
    "prepare": "make data ready: prepare.source=guru|am_thinking|reasoning_gym|starter|files prepare.output=FOLDER",
    "serve": "answer over HTTP: a page and an OpenAI-compatible API",
    "pipeline": "several of these one after the other, with one report: pipeline.stages, recipe=pipeline",
}


def help_text(conf_dir: Path = CONF_DIR) -> str:
    """Usage, modes, recipes, groups, and every key with type, default and help."""
    lines = [f"usage: {USAGE}", "       --dry-run  show the configuration and the actors it needs, and stop", "",
             "modes"]
    lines += [f"  {mode:<10}{text}" for mode, text in MODE_HELP.items()]
    lines += ["", "recipes (recipe=NAME, or the path of a .yaml file)"]
    lines += [f"  {name:<18}{summary(conf_dir / 'recipes' / f'{name}.yaml')}" for name in names("recipes", conf_dir)]
    for group in GROUPS:
        lines += ["", f"{group} groups ({group}=NAME replaces the recipe's {group} section)"]
        lines += [f"  {name:<14}{summary(conf_dir / group / f'{name}.yaml')}" for name in names(group, conf_dir)]
    lines += ["", "keys (key=value; lists as [a,b])"]
    section = ""
    for key in keys().values():
        if (head := key.name.rpartition(".")[0]) != section:
            section = head
            lines.append("")
        lines.append(_key_line(key))
    return "\n".join(lines)


def summary(path: Path) -> str:
    """The first line of a YAML file without its comment sign, or nothing where that is no comment."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.lstrip("# ").rstrip() if first.startswith("#") else ""


def _key_line(key: Key) -> str:
    default = f"[{','.join(map(str, key.default))}]" if isinstance(key.default, list) else str(key.default)
    if isinstance(key.default, bool):
        default = default.lower()
    choices = f" ({' | '.join(key.choices)})" if key.choices and key.name != "mode" else ""
    return f"  {key.name + '=' + default:<36} {key.type_name:<12} {key.help}{choices}"
