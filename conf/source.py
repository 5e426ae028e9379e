"""Reads settings from the command line and from YAML, as text: types are the schema's business (`conf.load`).

A scalar stays the text that was written, so that `run.name=001` or `data.tasks=[no]` mean the same in a file and on
the command line, and YAML's guesses (`no` is false, `001` is 1) never reach a key that holds text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from conf.errors import UserError
from conf.schema import MODES, keys


@dataclass(frozen=True)
class Setting:
    """`key = value`, where `where` ("conf/recipes/x.yaml:7: ", or empty for the command line) opens its errors."""

    key: str
    value: str | list[str]
    where: str = ""

    def __str__(self) -> str:
        text = f"[{','.join(self.value)}]" if isinstance(self.value, list) else self.value
        return f"{self.where}{self.key}={text}"


def read_arguments(argv: Sequence[str]) -> list[Setting]:
    """The settings of `key=value` words.

    Raises:
        UserError: a word is not `key=value`, or its list does not parse.
    """
    return [_read_argument(word) for word in argv]


def read_yaml(path: Path, shown: str = "", prefix: str = "") -> list[Setting]:
    """The settings of a YAML file as dotted keys, each after `prefix` ("data." for a group's file).

    Raises:
        UserError: the file is missing, is not YAML, is no mapping, or names a key twice or without a value.
    """
    shown = shown or str(path)
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except yaml.MarkedYAMLError as e:
        line = e.problem_mark.line + 1 if e.problem_mark else 1
        raise UserError(f"{shown}:{line}: not valid YAML ({e.problem}): mend that line") from e
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        reason = " ".join((getattr(e, "strerror", None) or str(e)).split())
        raise UserError(f"{shown}: cannot be read ({reason}): give a readable YAML file") from e
    if root is None:
        return []
    if not isinstance(root, yaml.MappingNode):
        raise UserError(f"{shown}: holds no keys: write lines such as `seed: 1`")
    settings = list(_flatten(root, prefix, shown))
    seen: dict[str, Setting] = {}
    for s in settings:
        if s.key in seen:
            raise UserError(f"{s.where}{s.key} is given twice in this file: keep one of the two lines")
        seen[s.key] = s
    return settings


def _read_argument(word: str) -> Setting:
    key, equals, text = word.partition("=")
    if not equals or not key:
        raise UserError(f"{word} is not key=value: {_hint_for_word(word)}")
    if key.startswith("-"):
        raise UserError(f"{word} is not an option: write {key.lstrip('-')}={text}")
    return Setting(key, _read_list(key, text) if _looks_like_list(key, text) else text)


def _hint_for_word(word: str) -> str:
    if word in MODES:
        return f"did you mean mode={word}?"
    if word.startswith("-"):
        return "use --help or --dry-run, all else is key=value"
    if word in keys():
        return f"write {word}=VALUE, without spaces around the ="
    return "write a setting as rl.steps=100, without spaces (python main.py --help lists all keys)"


def _looks_like_list(key: str, text: str) -> bool:
    """Brackets make a list, except for keys that hold text: a name may well begin with one."""
    known = keys().get(key)
    return text.startswith("[") and (known is None or known.type is not str)


def _read_list(key: str, text: str) -> list[str]:
    try:
        value = yaml.load(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError as e:
        raise UserError(f"{key}={text} is not a list: write {key}=[a,b]") from e
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UserError(f"{key}={text} is not a flat list: write {key}=[a,b]")
    return value


def _flatten(node: yaml.MappingNode, prefix: str, shown: str) -> Iterator[Setting]:
    for key_node, value_node in node.value:
        where = f"{shown}:{key_node.start_mark.line + 1}: "
        if not isinstance(key_node, yaml.ScalarNode):
            raise UserError(f"{where}a key must be a plain word, as in `seed: 1`")
        key = prefix + key_node.value
        if isinstance(value_node, yaml.MappingNode):
            yield from _flatten(value_node, key + ".", shown)
        elif isinstance(value_node, yaml.SequenceNode):
            if not all(isinstance(item, yaml.ScalarNode) for item in value_node.value):
                raise UserError(f"{where}{key} is not a flat list: write {key.rsplit('.', 1)[-1]}: [a, b]")
            yield Setting(key, [item.value for item in value_node.value], where)
        elif value_node.style is None and value_node.value in ("", "~", "null"):
            raise UserError(f"{where}{key} has no value: give it one, or remove the line")
        else:
            yield Setting(key, value_node.value, where)
