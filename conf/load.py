"""`load(argv)`: the typed configuration of one command.

Layers, each over the one before: the schema's defaults; the groups that the recipe names under `defaults:`; the
recipe's own keys; the groups chosen on the command line (`data=reasoning_gym`); the keys set on the command line.
A group chosen on the command line replaces that section of the recipe wholly, the recipe's own keys of it included,
so that no file list of one source is left over beside the name of another.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import GrammarParseError, OmegaConfBaseException

from conf.checks import model_folder
from conf.errors import UserError, did_you_mean
from conf.scale import fill
from conf.schema import GROUPS, MODES, Config, Key, keys, lookup, sections
from conf.source import Setting, read_arguments, read_yaml
from conf.validate import validate

CONF_DIR = Path(__file__).resolve().parent
EXPECTED = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def load(argv: Sequence[str], conf_dir: Path = CONF_DIR) -> Config:
    """The configuration that the words `key=value` of a command line ask for.

    Raises:
        UserError: an unknown key (with the closest one), a value of a wrong type or not among the key's choices,
            an unknown recipe or group, a file that does not parse, or values that contradict each other.
    """
    cfg = resolve(argv, conf_dir)
    validate(cfg)
    cfg.model.path = model_folder(cfg.model.path)
    if cfg.ray.gpus and cfg.mode in ("train", "sft", "eval"):
        fill(cfg, cfg.ray.gpus)
    return cfg


def resolve(argv: Sequence[str], conf_dir: Path = CONF_DIR) -> Config:
    """As `load`, without the checks across keys: for the recipes' own tests and for `--help`."""
    words = read_arguments(argv)
    chosen = {s.key: s for s in words if s.key in GROUPS}
    recipe = next((s for s in reversed(words) if s.key == "recipe"), Setting("recipe", Config().recipe))
    base, own = _read_recipe(recipe, conf_dir, next((s.value for s in reversed(words) if s.key == "mode"), None))

    settings = [s for group in base if group.key not in chosen for s in _read_group(group, conf_dir)]
    settings += [s for s in own if s.key.partition(".")[0] not in chosen]
    settings += [s for group in chosen.values() for s in _read_group(group, conf_dir)]
    settings += [s for s in words if s.key not in GROUPS]

    tree = copy.deepcopy(_schema())
    for setting in [*settings, recipe]:
        _apply(tree, setting)
    return _to_config(tree)


@functools.cache
def _schema() -> DictConfig:
    """The schema's defaults as a tree: to build one takes five times as long as to copy it."""
    return OmegaConf.structured(Config)


def to_yaml(cfg: Config) -> str:
    """The whole configuration as YAML, which `recipe=PATH` reads back to the same values."""
    return OmegaConf.to_yaml(OmegaConf.structured(cfg))


def names(folder: str, conf_dir: Path = CONF_DIR) -> list[str]:
    """The YAML files of `recipes`, `model`, `data` or `engine`, without their ending."""
    return sorted(p.stem for p in (conf_dir / folder).glob("*.yaml"))


def _read_recipe(recipe: Setting, conf_dir: Path, mode: Any) -> tuple[list[Setting], list[Setting]]:
    """The groups a recipe names under `defaults:`, and its own settings.

    Settings under `in_mode.sft` (or another mode) lie over the recipe's others and count in that mode only, so that
    one recipe can serve both the making of a policy and its training.
    """
    name = str(recipe.value)
    if name.endswith((".yaml", ".yml")):
        path, shown = Path(name).expanduser(), name
    elif name in (known := names("recipes", conf_dir)):
        path, shown = conf_dir / "recipes" / f"{name}.yaml", f"conf/recipes/{name}.yaml"
    else:
        raise UserError(f"{recipe}: no such recipe{did_you_mean(name, known, 'recipe=')} (recipes: {', '.join(known)}; "
                        "a file of yours: recipe=path/to/file.yaml)")
    base: list[Setting] = []
    own: list[Setting] = []
    special: list[tuple[str, Setting]] = []
    for s in read_yaml(path, shown):
        head, _, group = s.key.partition(".")
        if head == "in_mode":
            special.append(_in_mode(s))
        elif head != "defaults":
            own.append(s)
        elif group in GROUPS:
            base.append(Setting(group, s.value, s.where))
        else:
            raise UserError(f"{s.where}defaults names groups ({', '.join(GROUPS)}), not {group or s.value}: "
                            "write `defaults: {model: starter}`")
    mode = mode or next((s.value for s in reversed(own) if s.key == "mode"), Config().mode)
    return base, own + [s for wanted, s in special if wanted == mode]


def _in_mode(s: Setting) -> tuple[str, Setting]:
    """(mode, setting) of a recipe's `in_mode.MODE.KEY`."""
    _, mode, key = (s.key.split(".", 2) + ["", ""])[:3]
    if mode not in MODES or not key:
        raise UserError(f"{s.where}in_mode names a mode and keys, as `in_mode: {{sft: {{learner: {{lr: 1e-3}}}}}}` "
                        f"(modes: {', '.join(MODES)})")
    return mode, Setting(key, s.value, s.where)


def _read_group(group: Setting, conf_dir: Path) -> list[Setting]:
    known = names(group.key, conf_dir)
    name = str(group.value)
    if name not in known:
        instead = "" if group.key != "model" else f"; a model folder: model.path={name}"
        raise UserError(f"{group}: no such {group.key} group{did_you_mean(name, known, group.key + '=')} "
                        f"({group.key} groups: {', '.join(known)}{instead})")
    path = conf_dir / group.key / f"{name}.yaml"
    return read_yaml(path, f"conf/{group.key}/{name}.yaml", prefix=group.key + ".")


def _apply(tree: DictConfig, s: Setting) -> None:
    """Writes one setting, converted to its key's type, into the structured tree."""
    key = keys().get(s.key)
    if key is None:
        raise UserError(f"{s.where}{_unknown_key(s)}")
    if key.is_list != isinstance(s.value, list):
        if key.is_list:
            raise UserError(f"{s} is not a list: write {s.key}=[{s.value}]")
        raise UserError(f"{s} is a list, but {s.key} takes {EXPECTED[key.type]} ({key.type_name}): "
                        f"write {s.key}={_example(key)}")
    try:
        OmegaConf.update(tree, s.key, s.value)
    except GrammarParseError as e:
        raise UserError(f"{s} does not parse: write a reference as ${{rl.steps}}, and a literal ${{ as \\${{") from e
    except OmegaConfBaseException as e:
        kind = f"a list of numbers ({key.type_name})" if key.is_list else f"{EXPECTED[key.type]} ({key.type_name})"
        raise UserError(f"{s} is not {kind}: write for example {s.key}={_example(key)}") from e


def _unknown_key(s: Setting) -> str:
    if s.key in sections():
        first = next(name for name in keys() if name.startswith(s.key + "."))
        return f"{s.key} is a section, not a key: set a key of it, such as {first}={_example(keys()[first])}"
    last = s.key.rsplit(".", 1)[-1]
    elsewhere = [name for name in keys() if name.rsplit(".", 1)[-1] == last]
    hint = f": did you mean {' or '.join(elsewhere)}?" if elsewhere else did_you_mean(s.key, keys())
    return f"{s.key} is not a key{hint} (python main.py --help lists all keys)"


def _example(key: Key) -> str:
    if isinstance(key.default, list):
        return f"[{','.join(map(str, key.default)) or 'a,b'}]"
    return str(key.default).lower() if isinstance(key.default, bool) else str(key.default) or "TEXT"


def _to_config(tree: DictConfig) -> Config:
    try:
        cfg = OmegaConf.to_object(tree)
    except OmegaConfBaseException as e:  # an interpolation ${...} that names nothing, or has another type
        first_line = str(e).splitlines()[0]
        raise UserError(f"{e.full_key or 'a ${...} value'} cannot be resolved ({first_line}): give it a value") from e
    assert isinstance(cfg, Config)
    for name, key in keys().items():
        _check_value(name, key, lookup(cfg, name))
    return cfg


def _check_value(name: str, key: Key, value: object) -> None:
    """What a type cannot say: one of the choices, and no nan or infinity."""
    if key.choices and value not in key.choices:
        listed = ", ".join(key.choices)
        if name == "mode":
            raise UserError(f"mode={value} is not a mode{did_you_mean(str(value), key.choices, 'mode=')} "
                            f"(modes: {listed})")
        raise UserError(f"{name}={value} is not one of {listed}{did_you_mean(str(value), key.choices, name + '=')}")
    numbers = value if isinstance(value, list) else [value]
    if any(isinstance(n, float) and not math.isfinite(n) for n in numbers):
        raise UserError(f"{name}={value} is not a finite number: write for example {name}={_example(key)}")
