"""A table of three or four rows and one question: a cell, a total, the largest, a difference, or the items that fit.

Several answers are joined by `|`, as Guru does.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from rl.problems.starter.base import ITEMS, Instance, Solution
from rl.problems.starter.slip import Slip

DATA_SOURCE = "table__starter"
KINDS = ("cell", "total", "largest", "difference", "which")
WEIGHTS = (20, 27, 20, 26, 7)
COLUMNS = ("count", "price", "size")
COLORS = ("red", "blue")
LIMIT = 20


@dataclass(frozen=True)
class Row:
    """An item; its color and number in a table with colors, its two numbers in one without."""

    item: str
    color: str
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class TableInstance(Instance):
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    column: int
    asked: tuple[str, ...]


def generate(rng: random.Random) -> TableInstance:
    """A table and a question about it."""
    kind = rng.choices(KINDS, WEIGHTS)[0]
    items = rng.sample(ITEMS, rng.choice((3, 4)))
    colored = kind in ("total", "which")
    columns = tuple(rng.sample(COLUMNS, 1 if colored else 2))
    numbers = [rng.sample(range(1, 10 if colored else LIMIT + 1), len(items)) for _ in columns]
    colors = _colors(rng, len(items), kind) if colored else [""] * len(items)
    rows = tuple(Row(item, color, tuple(n[i] for n in numbers)) for i, (item, color) in enumerate(zip(items, colors)))
    column = rng.randrange(len(columns))
    asked = _asked(rng, kind, rows, column)
    question = f"{_text(columns, rows)}\n{_ask(kind, columns[column], asked)}"
    return TableInstance(question, _truth(kind, rows, column, asked), DATA_SOURCE, kind, columns, rows, column, asked)


def solve(instance: TableInstance, slip: Slip) -> Solution:
    """Reads the rows that matter, then calculates or chooses."""
    solver = {"cell": _cell, "total": _total, "largest": _largest, "difference": _difference, "which": _which}
    lines, answer = solver[instance.kind](instance, slip)
    return Solution(_PLANS[instance.kind], "\n".join(lines), answer)


_PLANS = {
    "cell": "Find the row of the item. Read the column.",
    "total": "Find the rows of the color. Add the numbers.",
    "largest": "Read the column. Find the largest number and its item.",
    "difference": "Read the numbers of the two items. Subtract the second.",
    "which": "Find the rows of the color. List the items.",
}


def _cell(instance: TableInstance, slip: Slip) -> tuple[list[str], str]:
    row = next(row for row in instance.rows if row.item == instance.asked[0])
    row = slip.pick(row, instance.rows)
    column = slip.pick(instance.column, range(len(instance.columns)))
    value = slip.number(row.numbers[column])
    name = instance.columns[instance.column]
    return [f"{instance.asked[0]}|{'|'.join(map(str, row.numbers))}", f"{name} {value}"], str(value)


def _total(instance: TableInstance, slip: Slip) -> tuple[list[str], str]:
    rows = [row for row in instance.rows if row.color == instance.asked[0]]
    values = [slip.number(row.numbers[0]) for row in rows]
    lines = [f"{row.item} {value}" for row, value in zip(rows, values)]
    total = values[0]
    for value in values[1:]:
        left, total = total, slip.number(total + value)
        lines.append(f"{left}+{value}={total}")
    return lines, str(total)


def _largest(instance: TableInstance, slip: Slip) -> tuple[list[str], str]:
    values = [row.numbers[instance.column] for row in instance.rows]
    lines = [f"{row.item} {value}" for row, value in zip(instance.rows, values)]
    largest = slip.pick(max(values), values)
    item = slip.pick(instance.rows[values.index(largest)].item, [row.item for row in instance.rows])
    return [*lines, f"largest {largest}"], item


def _difference(instance: TableInstance, slip: Slip) -> tuple[list[str], str]:
    by_item = {row.item: row.numbers[instance.column] for row in instance.rows}
    first, second = (slip.pick(by_item[item], list(by_item.values())) for item in instance.asked)
    value = slip.number(first - second)
    lines = [f"{instance.asked[0]} {first}", f"{instance.asked[1]} {second}", f"{first}-{second}={value}"]
    return lines, str(value)


def _which(instance: TableInstance, slip: Slip) -> tuple[list[str], str]:
    colors = [slip.pick(row.color, COLORS) for row in instance.rows]
    items = [row.item for row, color in zip(instance.rows, colors) if color == instance.asked[0]]
    lines = [f"{row.item} {color}" for row, color in zip(instance.rows, colors)]
    return lines, "|".join(items) or "none"


def _colors(rng: random.Random, count: int, kind: str) -> list[str]:
    """Two rows or more share the color asked for; exactly two where the items are to be listed."""
    asked = 2 if kind == "which" else rng.randint(2, count)
    first, second = rng.sample(COLORS, 2)
    colors = [first] * asked + [second] * (count - asked)
    rng.shuffle(colors)
    return colors


def _asked(rng: random.Random, kind: str, rows: tuple[Row, ...], column: int) -> tuple[str, ...]:
    if kind == "largest":
        return ()
    if kind in ("total", "which"):
        colors = [row.color for row in rows]
        counts = (2,) if kind == "which" else (2, 3, 4)
        return (rng.choice([color for color in COLORS if colors.count(color) in counts]),)
    chosen = rng.sample(rows, 2 if kind == "difference" else 1)
    return tuple(row.item for row in sorted(chosen, key=lambda row: -row.numbers[column]))


def _ask(kind: str, column: str, asked: tuple[str, ...]) -> str:
    if kind == "cell":
        return f"What is the {column} of the {asked[0]}?"
    if kind == "total":
        return f"What is the total {column} of the {asked[0]} items?"
    if kind == "largest":
        return f"Which item has the largest {column}?"
    if kind == "difference":
        return f"What is the {column} of the {asked[0]} minus the {column} of the {asked[1]}?"
    return f"Which items are {asked[0]}?"


def _truth(kind: str, rows: tuple[Row, ...], column: int, asked: tuple[str, ...]) -> str:
    if kind == "largest":
        return max(rows, key=lambda row: row.numbers[column]).item
    if kind == "total":
        return str(sum(row.numbers[0] for row in rows if row.color == asked[0]))
    if kind == "which":
        return "|".join(row.item for row in rows if row.color == asked[0])
    numbers = {row.item: row.numbers[column] for row in rows}
    return str(numbers[asked[0]] - (numbers[asked[1]] if kind == "difference" else 0))


def _text(columns: tuple[str, ...], rows: tuple[Row, ...]) -> str:
    head = ["item", *(["color"] if rows[0].color else []), *columns]
    body = [[row.item, *([row.color] if row.color else []), *map(str, row.numbers)] for row in rows]
    return "\n".join("|".join(cells) for cells in [head, *body])
