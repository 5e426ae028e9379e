"""Units of measure: a small table, exact factors, and the parting of an answer into its value and its unit.

A unit is a vector of dimensions and an exact factor to SI; two quantities are comparable only if their dimensions
agree. Words that are no known unit ("apples") are nouns: they agree only with the same noun.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

# symbol or word -> (factor to the base unit, dimensions); the base units are m, kg, s, A, K, mol, rad, $, and bit
_F = Fraction
_BASE: dict[str, tuple[Fraction, dict[str, int]]] = {
    "m": (_F(1), {"m": 1}),
    "g": (_F(1, 1000), {"kg": 1}),
    "s": (_F(1), {"s": 1}),
    "A": (_F(1), {"A": 1}),
    "K": (_F(1), {"K": 1}),
    "mol": (_F(1), {"mol": 1}),
    "N": (_F(1), {"kg": 1, "m": 1, "s": -2}),
    "J": (_F(1), {"kg": 1, "m": 2, "s": -2}),
    "W": (_F(1), {"kg": 1, "m": 2, "s": -3}),
    "Pa": (_F(1), {"kg": 1, "m": -1, "s": -2}),
    "V": (_F(1), {"kg": 1, "m": 2, "s": -3, "A": -1}),
    "ohm": (_F(1), {"kg": 1, "m": 2, "s": -3, "A": -2}),
    "C": (_F(1), {"A": 1, "s": 1}),
    "Hz": (_F(1), {"s": -1}),
    "F": (_F(1), {"kg": -1, "m": -2, "s": 4, "A": 2}),
    "T": (_F(1), {"kg": 1, "s": -2, "A": -1}),
    "L": (_F(1, 1000), {"m": 3}),
    "l": (_F(1, 1000), {"m": 3}),
    "eV": (_F("1.602176634e-19"), {"kg": 1, "m": 2, "s": -2}),
}
_OTHER: dict[str, tuple[Fraction, dict[str, int]]] = {
    "in": (_F(254, 10000), {"m": 1}),
    "inch": (_F(254, 10000), {"m": 1}),
    "inches": (_F(254, 10000), {"m": 1}),
    "ft": (_F(3048, 10000), {"m": 1}),
    "foot": (_F(3048, 10000), {"m": 1}),
    "feet": (_F(3048, 10000), {"m": 1}),
    "yd": (_F(9144, 10000), {"m": 1}),
    "yard": (_F(9144, 10000), {"m": 1}),
    "mi": (_F("1609.344"), {"m": 1}),
    "mile": (_F("1609.344"), {"m": 1}),
    "min": (_F(60), {"s": 1}),
    "minute": (_F(60), {"s": 1}),
    "h": (_F(3600), {"s": 1}),
    "hr": (_F(3600), {"s": 1}),
    "hour": (_F(3600), {"s": 1}),
    "day": (_F(86400), {"s": 1}),
    "week": (_F(604800), {"s": 1}),
    "second": (_F(1), {"s": 1}),
    "sec": (_F(1), {"s": 1}),
    "year": (_F(1), {"year": 1}),
    "month": (_F(1, 12), {"year": 1}),
    "meter": (_F(1), {"m": 1}),
    "metre": (_F(1), {"m": 1}),
    "gram": (_F(1, 1000), {"kg": 1}),
    "lb": (_F("0.45359237"), {"kg": 1}),
    "pound": (_F("0.45359237"), {"kg": 1}),
    "oz": (_F("0.028349523125"), {"kg": 1}),
    "ounce": (_F("0.028349523125"), {"kg": 1}),
    "ton": (_F(1000), {"kg": 1}),
    "mph": (_F("0.44704"), {"m": 1, "s": -1}),
    "kph": (_F(5, 18), {"m": 1, "s": -1}),
    "liter": (_F(1, 1000), {"m": 3}),
    "litre": (_F(1, 1000), {"m": 3}),
    "joule": (_F(1), _BASE["J"][1]),
    "newton": (_F(1), _BASE["N"][1]),
    "watt": (_F(1), _BASE["W"][1]),
    "volt": (_F(1), _BASE["V"][1]),
    "pascal": (_F(1), _BASE["Pa"][1]),
    "ampere": (_F(1), {"A": 1}),
    "amp": (_F(1), {"A": 1}),
    "coulomb": (_F(1), _BASE["C"][1]),
    "hertz": (_F(1), {"s": -1}),
    "kelvin": (_F(1), {"K": 1}),
    "mole": (_F(1), {"mol": 1}),
    "degree": (_F(1), {"degree": 1}),
    "deg": (_F(1), {"degree": 1}),
    "radian": (_F(1), {"rad": 1}),
    "rad": (_F(1), {"rad": 1}),
    "percent": (_F(1), {"percent": 1}),
    "%": (_F(1), {"percent": 1}),
    "dollar": (_F(1), {"$": 1}),
    "USD": (_F(1), {"$": 1}),
    "cent": (_F(1, 100), {"$": 1}),
    "Ω": (_F(1), _BASE["ohm"][1]),
    "atm": (_F(101325), _BASE["Pa"][1]),
    "bar": (_F(100000), _BASE["Pa"][1]),
    "cal": (_F("4.184"), _BASE["J"][1]),
    "kcal": (_F(4184), _BASE["J"][1]),
    "kWh": (_F(3600000), _BASE["J"][1]),
    "acre": (_F("4046.8564224"), {"m": 2}),
    "ha": (_F(10000), {"m": 2}),
    "M": (_F(1000), {"mol": 1, "m": -3}),
}
_CURRENCIES = {"dollar": "$", "pounds": "pound sterling", "euro": "euro"}
_PREFIX = {"n": -9, "u": -6, "µ": -6, "μ": -6, "m": -3, "c": -2, "d": -1, "k": 3, "M": 6, "G": 9}
_LONG_PREFIX = {"nano": -9, "micro": -6, "milli": -3, "centi": -2, "deci": -1, "kilo": 3, "mega": 6, "giga": 9}
_UNPREFIXED = {"unit", "units", "square unit", "square units", "sq unit", "sq units", "cubic unit", "cubic units"}
_NOT_NOUNS = frozenset(
    "not no is are was were be wrong right or and except all but it if than then else either neither maybe possibly "
    "about approximately roughly least most more less under over between without minus plus times answer otherwise to "
    "only never cannot impossible undefined thousand million billion trillion hundred dozen".split()
)
_FACTOR = re.compile(r"([a-zA-ZΩµμ%]+)(?:\^\{?(-?\d)\}?|([23]))?")


@dataclass(frozen=True)
class Unit:
    """`factor` (to the base units) and the exponents of `dimensions`; a noun has a dimension named after itself."""

    factor: Fraction
    dimensions: tuple[tuple[str, int], ...]

    def comparable(self, other: Unit) -> bool:
        return self.dimensions == other.dimensions


PERCENT = Unit(Fraction(1), (("percent", 1),))
DEGREE = Unit(Fraction(1), (("degree", 1),))
RADIAN = Unit(Fraction(1), (("rad", 1),))


def _lookup(word: str) -> tuple[Fraction, dict[str, int]] | None:
    """A unit's symbol or word, in the plural or with a prefix; None if it is none."""
    for candidate in (word, word.lower()) if len(word) > 2 else (word,):
        for name in (candidate, candidate.removesuffix("s") if len(candidate) > 2 else candidate):
            if name in _BASE:
                return _BASE[name]
            if name in _OTHER:
                return _OTHER[name]
            for prefix, power in _LONG_PREFIX.items():
                if name.startswith(prefix) and name[len(prefix) :] in _OTHER:
                    factor, dimensions = _OTHER[name[len(prefix) :]]
                    return factor * Fraction(10) ** power, dimensions
            if len(name) > 1 and name[0] in _PREFIX and name[1:] in _BASE:
                factor, dimensions = _BASE[name[1:]]
                return factor * Fraction(10) ** _PREFIX[name[0]], dimensions
    return None


def parse_unit(text: str, *, nouns: bool = True) -> Unit | None:
    """The unit that `text` names ("m/s^2", "square units", "kg m", "apples"); None if it names none.

    `nouns`: whether words that are no unit count as one of their own (at most three words, none of them a sentence's).
    """
    text = re.sub(r"\\(?:text|mathrm)\s*\{([^{}]*)\}", r" \1 ", text).strip().strip(".").replace("^\\circ", "degree")
    text = re.sub(r"\s*\\cdot\s*|·|\*", " ", re.sub(r"\b(sq|cu)\.\s*", r"\1 ", text))
    text = re.sub(r"\s*\^\s*", "^", text)
    if text.lower() in _UNPREFIXED:
        return Unit(Fraction(1), ())
    text = re.sub(r"\b(?:sq|square)\.? ([a-zA-Z]+)", r"\1^2", text)
    text = re.sub(r"\bcubic ([a-zA-Z]+)", r"\1^3", text)
    text = re.sub(r"\b([a-zA-Z]+) squared\b", r"\1^2", text)
    text = re.sub(r"\s+per\s+|\s*/\s*", "/", text)
    if not text or len(text) > 60:
        return None
    unit = _product(text)
    if unit is not None or not nouns:
        return unit
    words = text.lower().split()
    if len(words) <= 3 and all(re.fullmatch(r"[a-z]{2,}", word) and word not in _NOT_NOUNS for word in words):
        return Unit(Fraction(1), ((" ".join(word.removesuffix("s") for word in words), 1),))
    return None


def _product(text: str) -> Unit | None:
    """Known units with exponents, multiplied by spaces and divided by `/`."""
    factor, dimensions = Fraction(1), dict[str, int]()
    for position, part in enumerate(text.split("/")):
        sign = 1 if position == 0 else -1
        for word in part.replace("(", " ").replace(")", " ").split():
            match = _FACTOR.fullmatch(word)
            known = _lookup(match.group(1)) if match else None
            if match is None or known is None:
                return None
            power = sign * int(match.group(2) or match.group(3) or 1)
            factor *= known[0] ** power
            for name, exponent in known[1].items():
                dimensions[name] = dimensions.get(name, 0) + exponent * power
    kept = tuple(sorted((name, exponent) for name, exponent in dimensions.items() if exponent))
    return Unit(factor, kept) if kept or factor != 1 else None


_TRAILING_TEXT = re.compile(r"^(?P<value>.*?[\d})a-zA-Z%|!])\s*(?P<unit>\\text\s*\{[^{}]*\}.{0,20})$", re.DOTALL)
_TRAILING_WORDS = re.compile(
    r"^(?P<value>.*?[\d})])(?P<space>\s*)(?P<unit>[a-zA-ZΩµμ][a-zA-ZΩµμ0-9^{}/·. -]*)$", re.DOTALL
)
_TRAILING_DEGREE = re.compile(
    r"^(?P<value>.*?)\s*\^\s*\\circ\s*(?:\\text\s*\{\s*)?(?P<scale>[CFK]?)\s*\}?$", re.DOTALL
)
_FRACTION_OF_UNITS = re.compile(r"\\frac\s*\{\s*\\text\s*\{([^{}]*)\}\s*\}\s*\{\s*\\text\s*\{([^{}]*)\}(\^\d)?\s*\}$")
_MONEY = re.compile(r"([-+]?)\s*\\(dollar|pounds|euro)\s*([^\\].*)|([^\\].*?)\\(dollar|pounds|euro)", re.DOTALL)
_PLAIN_VALUE = re.compile(
    r"[-+]?[\d.,/ ]+(?:\\(?:times|cdot) ?10\^\{?-?\d+\}?|[eE][-+]?\d+)?|.*\\(?:frac|sqrt|pi).*", re.DOTALL
)


def split_unit(text: str) -> tuple[str, Unit | None]:
    """(value, unit) of a cleaned answer; the unit is None where there is none, or where it cannot be told from a name.

    A single letter is a unit only after a space and a plain number: `5 m` has a unit, `5m` is five times m.
    """
    if text.endswith("%"):
        return text[:-1].strip(), PERCENT
    money = _MONEY.fullmatch(text)
    if money:
        sign, before, amount, other, after = money.groups()
        return (sign or "") + (amount or other).strip(), Unit(Fraction(1), ((_CURRENCIES[before or after], 1),))
    text = _FRACTION_OF_UNITS.sub(r"\\text{\1/\2\3}", text)
    degree = _TRAILING_DEGREE.match(text)
    if degree and not re.search(r"\\(?:sin|cos|tan|cis|cot|sec|csc)", degree.group("value")):
        scale = degree.group("scale")
        return degree.group("value"), Unit(Fraction(1), ((f"degree{scale}", 1),))
    worded = _TRAILING_TEXT.match(text)
    if worded:
        unit = parse_unit(worded.group("unit"))
        if unit is not None:
            return worded.group("value"), unit
    plain = _TRAILING_WORDS.match(text)
    if plain and _PLAIN_VALUE.fullmatch(plain.group("value")):
        name, spaced = plain.group("unit"), bool(plain.group("space"))
        unit = parse_unit(name, nouns=spaced and len(name) > 2)
        if unit is not None and (spaced or re.match(r"[^\W\d_]{2}", name)):
            return plain.group("value"), unit
    return text, None
