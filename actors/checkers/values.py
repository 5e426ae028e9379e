"""The values that a mathematical answer can have, and how they are read from cleaned LaTeX.

An answer is one of: Words ("increasing"), Quantity (an expression with a unit), Collection (a list or set: the order is
free), Tuple (a point, vector, or interval: brackets and order count), Matrix, Region (a union of intervals, from
inequalities or \\cup), Relation (an equation).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from actors.checkers import expression, regions
from actors.checkers.expression import Node, ParseError, Refused
from actors.checkers.regions import REALS, Interval, Region
from actors.checkers.units import Unit, split_unit

MAX_ITEMS = 60
MAX_NESTING = 40  # brackets; also what keeps the recursion here shallow


@dataclass(frozen=True)
class Words:
    text: str


@dataclass(frozen=True)
class Quantity:
    node: Node
    unit: Unit | None = None


@dataclass(frozen=True)
class Collection:
    items: tuple[Any, ...]


@dataclass(frozen=True)
class Assignments(Collection):
    """`x=1, y=2`: as a list its order is free, but each value has its name."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class Tuple:
    left: str
    right: str
    items: tuple[Any, ...]


@dataclass(frozen=True)
class Matrix:
    rows: tuple[tuple[Node, ...], ...]


@dataclass(frozen=True)
class Relation:
    left: Node
    right: Node


_WORD_NUMBERS = {
    name: value
    for value, name in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen twenty".split()
    )
} | {"thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90, "hundred": 100}
_PARTS = {"half": 2, "halve": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7} | {
    "eighth": 8, "ninth": 9, "tenth": 10,
}  # fmt: skip
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_DIGIT = re.compile(r"\d")
_SCALE = re.compile(r"^(.*\d)\s*(hundred|thousand|million|billion|trillion)$")
_MATRIX = re.compile(
    r"^(?P<scale>.*?)\\begin\{(?P<kind>[pbvBV]?matrix|array|smallmatrix)\}(?:\{[^{}]*\})?"
    r"(?P<body>.*)\\end\{(?P=kind)\}$",
    re.DOTALL,
)
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?!\d|,\d)")
_MIXED = re.compile(r"(?<![\d./^_])(\d+) (\d+) ?/ ?(\d+)(?![\d./])")
_FUNCTION_HEAD = re.compile(r"^[a-zA-Z]'?\s*\(\s*[a-zA-Z](?:\s*,\s*[a-zA-Z])*\s*\)\s*=\s*")
_LABEL = re.compile(
    r"[a-zA-Z](?:_\{?\w+\}?)?'*|\\(?:angle|triangle|measuredangle)\s*[A-Z]{1,4}|\\[a-zA-Z]+|\|?[A-Z]{2,4}\|?"
    r"|\\text\s*\{[^{}]*\}|[a-zA-Z]\s*\(\s*-?[0-9A-Za-z ]{1,12}\)|\|[a-zA-Z]{1,2}\||\\overline\s*\{[A-Z]{2}\}"
)
_NAMED = re.compile(r"\s*([a-zA-Z]|\\[a-z]+)\s*=[^=<>]*")
_RELATION = re.compile(r"\\le(?![a-zA-Z])|\\ge(?![a-zA-Z])|\\ne(?![a-zA-Z])|[=<>]")
_MEMBER = re.compile(r"^(?:[a-zA-Z](?:\([a-zA-Z]\))?|\\[a-z]+)\s*\\in(?![a-zA-Z])\s*")
_AND_OR = re.compile(r"\\text\s*\{\s*,?\s*(and|or)\s*\}|(?<![a-zA-Z\\])(and|or)(?![a-zA-Z])|\\(?:lor|land)(?![a-zA-Z])")
_OR = re.compile(r"(?<![a-zA-Z\\])or(?![a-zA-Z])|\\lor(?![a-zA-Z])")
_AND = re.compile(r"(?<![a-zA-Z\\])and(?![a-zA-Z])|\\land(?![a-zA-Z])")
_EMPTY = re.compile(
    r"\\emptyset|\\\{\s*\\\}"
    r"|(?:\\text\s*\{)?\s*(?:there (?:is|are) )?(?:no (?:real )?solutions?|(?:the )?empty set)\s*\}?",
    re.IGNORECASE,
)
_NAMED_TUPLE = re.compile(r"\(\s*[a-zA-Z](?:\s*,\s*[a-zA-Z])+\s*\)\s*=\s*(?=\()|[A-Z]\s*=\s*(?=\\begin)")
_AROUND_MATRIX = re.compile(r"[(\[]\s*(\\begin.*\\end\{[a-z]*\})\s*[)\]]", re.DOTALL)
_POINT = re.compile(r"[A-Z]\s*(?=\([^()]*,)")
_BUILDER = re.compile(r"\\\{\s*([a-zA-Z])\s*(?:\\in\s*\\mathbb\s*\{?R\}?\s*)?[|:]\s*(.*)\\\}", re.DOTALL)
_OUTWARD = re.compile(r"([\[\]])([^\[\]()]*,[^\[\]()]*)([\[\]])")
_CHOICES = re.compile(r"\\text\s*\{\s*([A-Z](?:\s*(?:,\s*and|,|and)\s*[A-Z])+)\s*\}")
_OPTION = re.compile(r"(?:option|choice|answer)\s*\(?([a-z])\)?")
_RATIO = re.compile(r"(\d+(?:\.\d+)?)\s*:\s*(\d+(?:\.\d+)?)")
_LESS_POINTS = re.compile(r"(.*?)\s*(?:\\setminus|-)\s*\\\{([^{}]*)\\\}", re.DOTALL)
_REALS = re.compile(
    r"\\(?:mathbb|mathbf)\s*\{?\s*R\s*\}?|\\R|\\Reals|\\text\s*\{\s*all real(?:s| numbers)\s*\}|all real(?:s| numbers)"
)


def read(text: str) -> Any:
    """The value that a cleaned answer stands for. Raises ParseError, TooCostly, Undefined."""
    if _nesting(text) > MAX_NESTING:
        raise Refused("nested too deeply")
    text = _MEMBER.sub("", _FUNCTION_HEAD.sub("", text)).strip()
    text = _AROUND_MATRIX.sub(r"\1", _NAMED_TUPLE.sub("", text, count=1)).strip()
    text = _choices_or_vector(_POINT.sub("", text, count=1) if _POINT.match(text) else text)
    if _EMPTY.fullmatch(text):
        return Collection(())
    if _REALS.fullmatch(text):
        return REALS
    words = _words(text)
    if words is not None:
        return words
    builder, less = _BUILDER.fullmatch(text), _LESS_POINTS.fullmatch(text)
    if builder:
        return read(builder.group(2).strip())
    if less and _REALS.fullmatch(less.group(1)):
        return regions.without(REALS, [expression.parse(each) for each in _pieces(less.group(2))])
    matrix = _MATRIX.match(text)
    if matrix:
        return _matrix(matrix)
    pieces = _pieces(_THOUSANDS.sub(lambda m: m.group().replace(",", ""), text))
    if len(pieces) > MAX_ITEMS:
        raise ParseError("too many items")
    return _several(text, pieces) if len(pieces) > 1 else _single(pieces[0])


def _choices_or_vector(text: str) -> str:
    """`\\text{A, C}` as a list, `\\langle 1,2 \\rangle` and `]0, 1[` in the brackets that others have."""
    choices, outward = _CHOICES.fullmatch(text), _OUTWARD.fullmatch(text)
    if choices:
        return choices.group(1)
    if outward and outward.group(1, 3) != ("[", "]"):
        left, inside, right = outward.groups()
        return f"{'[' if left == '[' else '('}{inside}{']' if right == ']' else ')'}"
    if text.startswith(r"\langle") and text.endswith(r"\rangle"):
        return f"({text[7:-7]})"
    return text


def _several(text: str, pieces: list[str]) -> Any:
    """A list, named values, or a region of several conditions."""
    named = [_NAMED.fullmatch(piece) for piece in pieces]
    if r"\ne" in pieces[0] and not any(_RELATION.search(piece) for piece in pieces[1:]):
        pieces = [pieces[0], *(f"x \\ne {piece}" for piece in pieces[1:])]  # x is not 1, 2
    items = tuple(item for piece in pieces for item in flat(read(piece)))
    if all(isinstance(item, Region) for item in items):
        return _joined(text, items)
    names = tuple(match.group(1) for match in named if match)
    if len(names) == len(pieces) == len(items) == len(set(names)):
        return Assignments(items, names)
    return Collection(items)


def _joined(text: str, parts: tuple[Region, ...]) -> Region:
    """Conditions with `or` between them hold in the union; with `and`, or with a comma and something in common, in what
    all have in common."""
    common = regions.intersection(parts)
    if not _OR.search(text) and (_AND.search(text) or common.intervals):
        return common
    return Region(tuple(interval for part in parts for interval in part.intervals))


def _nesting(text: str) -> int:
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    return deepest


def flat(value: Any) -> tuple[Any, ...]:
    return value.items if isinstance(value, Collection) else (value,)


def _words(text: str) -> Words | Quantity | None:
    """A spelled number, or an answer in words: in \\text{}, or a run of three or more letters."""
    if re.fullmatch(r"[a-zA-Z](?: (?:and|or) [a-zA-Z])+", text):
        return None  # a list of choices or names
    boxed = _TEXT.fullmatch(text)
    plain = boxed.group(1) if boxed else text
    plain = re.sub(r"\s+", " ", plain).strip().strip(".").lower()
    plain = re.sub(r"^(?:an?|the) ", "", plain)
    choice = re.fullmatch(r"\(?([a-z])\)", plain) or (boxed and re.fullmatch(r"([a-z])", plain))
    if choice:
        return Words(choice.group(1))
    if option := _OPTION.fullmatch(plain):
        return Words(option.group(1))
    spelled = _spelled(plain.replace("-", " ").split())
    if spelled is not None:
        return Quantity(("num", spelled))
    if re.fullmatch(r"[a-z][a-z'-]*(?: [a-z][a-z'-]*)*", plain) and (
        boxed or re.search(r"[a-z]{3}", plain)
    ):
        if re.search(r"\b(?:and|or|not)\b", plain) and not boxed:
            raise Refused("prose")
        return Words(plain)
    return None


def _spelled(words: list[str]) -> Fraction | None:
    """The number that words spell: twenty one, minus two thousand, three quarters."""
    sign = -1 if words and words[0] in ("minus", "negative") else 1
    words = words[1:] if sign < 0 else words
    if len(words) > 1 and words[-1].removesuffix("s") in _PARTS and words[-1] not in _WORD_NUMBERS:
        count = _spelled(words[:-1])
        return None if count is None else sign * count / _PARTS[words[-1].removesuffix("s")]
    if not words or words[0] in _SCALES or len(words) > 12:
        return Fraction(sign * 100) if words == ["hundred"] else None
    total = current = 0
    for word in words:
        if word in _SCALES and word != "hundred":
            total, current = total + max(current, 1) * 10 ** _SCALES[word], 0
        elif word not in _WORD_NUMBERS:
            return None
        else:
            value = _WORD_NUMBERS[word]
            current = max(current, 1) * 100 if value == 100 else current + value
    return Fraction(sign * (total + current))


def _matrix(match: re.Match[str]) -> Matrix:
    rows = [row for row in re.split(r"\\\\(?:\[[^\]]*\])?", match.group("body")) if row.strip()]
    if len(rows) > MAX_ITEMS:
        raise ParseError("matrix too large")
    entries = tuple(tuple(expression.parse(cell.strip()) for cell in row.split("&")) for row in rows)
    scale = match.group("scale").strip().rstrip("*").strip()
    if scale:
        factor: Node = ("neg", ("num", Fraction(1))) if scale == "-" else expression.parse(scale)
        entries = tuple(tuple(("*", factor, cell) for cell in row) for row in entries)
    return Matrix(entries)


def _pieces(text: str) -> list[str]:
    """The parts of a list at the top level: split at commas, `and`, `or`; a set's braces are taken off."""
    if text.startswith("\\{") and text.endswith("\\}") and _closes_at_end(text[1:]):
        text = text[2:-2]
    text = _AND_OR.sub(",", text)
    pieces, depth, start = [], 0, 0
    for position, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if character in ",;" and depth == 0:
            pieces.append(text[start:position])
            start = position + 1
    pieces.append(text[start:])
    cleaned = [piece.strip() for piece in pieces if piece.strip()]
    if not cleaned:
        raise ParseError("empty")
    return cleaned


def _closes_at_end(text: str) -> bool:
    """Whether the bracket that opens `text` is closed by the one that ends it."""
    depth = 0
    for position, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0 and character in ")]}":
            return position == len(text) - 1
    return False


def _single(text: str) -> Any:
    if text.startswith("\\{") and text.endswith("\\}") and _closes_at_end(text[1:]):
        return Collection(flat(read(text)))
    if r"\pm" in text:
        if text.count(r"\pm") > 1:
            raise ParseError("several \\pm")
        return Collection((read(text.replace(r"\pm", "+").lstrip("+")), read(text.replace(r"\pm", "-"))))
    if r"\cup" in text:
        return _union([part.strip() for part in text.split(r"\cup")])
    if _top_relations(text):
        return _relation(text)
    bracketed = _bracketed(text)
    if bracketed is not None:
        return bracketed
    return _quantity(text)


def _union(parts: list[str]) -> Region | Collection:
    """A union of intervals and finite sets."""
    values = [_single(part) for part in parts]
    if all(isinstance(value, Collection) for value in values):
        return Collection(tuple(item for value in values for item in value.items))
    intervals: list[Interval] = []
    for value in values:
        if isinstance(value, Collection) and all(isinstance(item, Quantity) for item in value.items):
            intervals += [regions.point(item.node) for item in value.items]
        elif isinstance(value, (Region, Tuple)):
            intervals += value.intervals if isinstance(value, Region) else [interval_of(value)]
        else:
            raise ParseError("a union of what are no intervals")
    return Region(tuple(intervals))


def _bracketed(text: str) -> Tuple | None:
    """`(a, b)`, `[a, b)`: at least two items in brackets that belong together."""
    if len(text) < 2 or text[0] not in "([" or text[-1] not in ")]" or not _closes_at_end(text):
        return None
    pieces = _pieces(text[1:-1])
    if len(pieces) < 2 and not text[1:-1].strip().startswith("["):
        return None
    if len(pieces) > MAX_ITEMS:
        raise ParseError("too many items")
    return Tuple(text[0], text[-1], tuple(_single(piece) for piece in pieces))


def _quantity(text: str) -> Quantity:
    text = _TEXT.sub(
        lambda m: m.group(1) if m.group(1).strip() in _SCALES or _DIGIT.search(m.group(1)) else m.group(), text
    )
    scaled = _SCALE.match(text)
    if scaled:
        text = rf"{scaled.group(1)} \times 10^{{{_SCALES[scaled.group(2)]}}}"
    text = _RATIO.sub(r"\1/\2", text) if _RATIO.fullmatch(text) else text
    value, unit = split_unit(text)
    value = _MIXED.sub(r"(\1+\\frac{\2}{\3})", value)
    return Quantity(expression.parse(value), unit)


def _top_relations(text: str) -> list[re.Match[str]]:
    """The signs of relation outside of braces: not the one in `\\sum_{n=1}`."""
    depth, found, position = 0, [], 0
    for match in _RELATION.finditer(text):
        depth += text.count("{", position, match.start()) - text.count("}", position, match.start())
        position = match.start()
        if depth == 0:
            found.append(match)
    return found


def _relation(text: str) -> Any:
    """`x = 5` is 5, `y = 2x + 1` an equation, an inequality in one name a region. Longer chains of `=` are refused."""
    found = _top_relations(text)
    operators = [match.group() for match in found]
    cuts = [0, *(position for match in found for position in match.span()), len(text)]
    sides = [text[a:b].strip() for a, b in zip(cuts[::2], cuts[1::2], strict=True)]
    if operators == ["="]:
        if _LABEL.fullmatch(sides[0]) and not _depends(sides[1]):
            return read(sides[1])
        return Relation(expression.parse(sides[0]), expression.parse(sides[1]))
    if "=" in operators or not all(sides):
        raise Refused("a chain of relations")
    return regions.of_inequality(operators, [expression.parse(side) for side in sides])


def _depends(text: str) -> bool:
    """Whether a side of an equation holds variables: then the equation is one, not a value with a name."""
    try:
        node = expression.parse(text)
    except ParseError:
        return False
    return bool(expression.variables(node))


def interval_of(value: Tuple) -> Interval:
    if len(value.items) != 2 or not all(isinstance(item, Quantity) for item in value.items):
        raise ParseError("not an interval")
    low, high = (item.node for item in value.items)
    return Interval(low, high, value.left == "[", value.right == "]")
