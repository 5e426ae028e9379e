"""From what a model wrote to plain LaTeX of one spelling: the first stage of every comparison of mathematics.

Only spelling is changed here (unicode, spacing, font and size commands, fractions without braces); nothing is
evaluated. All rules are linear or run on text that `clean` has capped.
"""

from __future__ import annotations

import re
import unicodedata

MAX_LENGTH = 4000  # characters of an answer; longer ones equal nothing

_UNICODE = {
    "−": "-",
    "–": "-",
    "—": "-",
    "‐": "-",
    "‑": "-",
    "×": r"\times ",
    "·": r"\cdot ",
    "⋅": r"\cdot ",
    "÷": "/",
    "∕": "/",
    "π": r"\pi ",
    "∞": r"\infty ",
    "≤": r"\le ",
    "≥": r"\ge ",
    "⩽": r"\le ",
    "⩾": r"\ge ",
    "≠": r"\ne ",
    "∪": r"\cup ",
    "∩": r"\cap ",
    "∅": r"\emptyset ",
    "∈": r"\in ",
    "±": r"\pm ",
    "°": r"^\circ ",
    "θ": r"\theta ",
    "α": r"\alpha ",
    "β": r"\beta ",
    "λ": r"\lambda ",
    "“": '"',
    "”": '"',
    "’": "'",
    "′": "'",
    "∖": r"\setminus ",
}
_BIDI = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_DROPPED_COMMANDS = re.compile(
    r"\\(?:left|right|bigl|bigr|Bigl|Bigr|biggl|biggr|big|Big|bigg|Bigg|displaystyle|textstyle|limits|nolimits|"
    r"mathstrut|phantom|hfill|rm|bf|it)(?![a-zA-Z])"
)
_FONT = re.compile(r"\\(?:mathbf|mathit|mathsf|mathcal|boldsymbol|bm|ensuremath|boxed|fbox|underline)\s*(?={)")
_OPERATOR = re.compile(r"\\operatorname\*?\s*\{\s*([a-zA-Z]+)\s*\}")
_TEXT_FONT = re.compile(r"\\(?:mathrm|textbf|textit|textrm|texttt|textsf|emph|mbox|hbox|textnormal)\s*(?={)")
_COLOR = re.compile(r"\\color\s*\{[^{}]*\}|\\textcolor\s*\{[^{}]*\}(?=\s*\{)")
_SPACES = re.compile(r"(?<!\\)\\[,;:!> ]|\\quad|\\qquad|~|\\enspace|\\thinspace|\\medspace|\\hspace\*?\{[^{}]*\}")
_THIN_THOUSANDS = re.compile(r"(?<=\d)(?:\\,|\\;|\\!|\{,\}|,\\!|\\ |\u2009|\u202f|\u00a0)(?=\d{3}(?!\d))")
_REPEATING = re.compile(r"(?<!\d)(\d*)\.(\d*)\\overline\{(\d+)\}")  # a run of digits is tried once, not at each digit
_FUNCTION_WORDS = re.compile(
    r"(?<![\\a-zA-Z])(sqrt|pi|sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|asin|acos|atan|ln|log|exp|infty|infinity|"
    r"binom|cis|cbrt)(?![a-zA-Z])"
)
_SPELLED = {"infinity": "infty", "asin": "arcsin", "acos": "arccos", "atan": "arctan"}


class Unreadable(Exception):
    """The text is no answer that can be compared (too long, or written to deceive the reader)."""


def clean(text: str) -> str:
    """One spelling of `text`: see the module. Raises Unreadable."""
    text = _strip_wrappers(text)
    if len(text) > MAX_LENGTH:
        raise Unreadable(f"answer longer than {MAX_LENGTH} characters")
    text = _THIN_THOUSANDS.sub("", text)
    text = _from_unicode(text)
    for command in (r"\dfrac", r"\tfrac", r"\cfrac"):
        text = text.replace(command, r"\frac")
    text = re.sub(r"\\\\(?=[a-zA-Z])", r"\\", text) if "\\begin" not in text else text
    text = re.sub(r"\\(?:lbrace|\{)", r"\\{", text)
    text = re.sub(r"\\(?:rbrace|\})", r"\\}", text)
    text = text.replace(r"\(", "").replace(r"\)", "").replace(r"\[", "").replace(r"\]", "")
    text = (
        text.replace(r"\$", "").replace("$", "").replace("**", "^").replace(r"\%", "%").replace(r"\degree", r"^\circ")
    )
    text = _OPERATOR.sub(r" \1 ", _COLOR.sub("", text))
    text = _DROPPED_COMMANDS.sub("", text)
    text = re.sub(r"\\(?:mathrm|text)\s*\{\s*([ei])\s*\}", r" \1 ", text)  # upright constants
    text = _TEXT_FONT.sub(r"\\text", text)
    text = _FONT.sub("", text)
    text = _SPACES.sub(" ", text)
    text = re.sub(r"\\(?:leqslant|leq)(?![a-zA-Z])", r"\\le ", text)
    text = re.sub(r"\\(?:geqslant|geq)(?![a-zA-Z])", r"\\ge ", text)
    text = re.sub(r"\\(?:neq|not\s*=)(?![a-zA-Z])", r"\\ne ", text)
    text = re.sub(r"\\(?:varnothing|empty)(?![a-zA-Z])", r"\\emptyset ", text)
    text = re.sub(r"(?<![<>])<=", r"\\le ", re.sub(r">=", r"\\ge ", text.replace("!=", r"\ne ")))
    text = text.replace(r"^{\circ}", r"^\circ").replace(r"\lvert", "|").replace(r"\rvert", "|").replace(r"\mid", "|")
    text = _FUNCTION_WORDS.sub(lambda m: "\\" + _SPELLED.get(m.group(1), m.group(1)) + " ", text)
    text = _REPEATING.sub(_repeating, text)
    text = _braces(text)
    return _tidy(text)


def _strip_wrappers(text: str) -> str:
    """Leave out the outer parentheses of `((7))`, in linear time and before the cap on the length."""
    text = text.strip().rstrip(".;,").strip()
    depth = min(len(text) - len(text.lstrip("(")), len(text) - len(text.rstrip(")")))
    inner = text[depth : len(text) - depth] if depth else text
    if depth > 1 and not (set(inner) & set("(),[]")):
        return inner
    return text


def _from_unicode(text: str) -> str:
    """ASCII LaTeX for unicode digits, fractions, superscripts, roots and operators."""
    if text.isascii():
        return text
    if _BIDI & set(text):
        raise Unreadable("answer holds characters that reverse the reading direction")
    text = re.sub(r"√\s*(\{|\()", r"\\sqrt\1", text)
    text = re.sub(r"√\s*([0-9]+|[a-zA-Z])", r"\\sqrt{\1}", text)
    return "".join(map(_from_character, text))


def _from_character(character: str) -> str:
    if character.isascii():
        return character
    if character in _UNICODE:
        return _UNICODE[character]
    decomposition = unicodedata.decomposition(character)
    plain = unicodedata.normalize("NFKC", character)
    if decomposition.startswith("<fraction>") and "⁄" in plain:
        return r"\frac{%s}{%s}" % tuple(plain.split("⁄"))
    if decomposition.startswith("<super>"):
        return "^{%s}" % plain.replace("−", "-")
    if decomposition.startswith("<sub>"):
        return "_{%s}" % plain
    digit = unicodedata.digit(character, None)
    if digit is not None:
        return str(digit)
    if unicodedata.category(character) == "Cf":
        return ""
    return " " if character.isspace() else plain


def _repeating(match: re.Match[str]) -> str:
    """`0.1\\overline{6}` as a fraction: (16 - 1) / 90."""
    whole, fixed, cycle = match.group(1) or "0", match.group(2), match.group(3)
    if len(fixed) + len(cycle) > 50:
        raise Unreadable("repeating decimal longer than 50 digits")
    numerator = int(whole + fixed + cycle) - int(whole + fixed)
    return r"\frac{%d}{%d}" % (numerator, (10 ** len(cycle) - 1) * 10 ** len(fixed))


def _braces(text: str) -> str:
    """`\\frac12`, `\\frac1{2}`, `\\sqrt3` with their braces."""
    text = re.sub(r"\\frac\s*([0-9a-zA-Z])\s*([0-9a-zA-Z])", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac\s*([0-9a-zA-Z])\s*\{", r"\\frac{\1}{", text)
    text = re.sub(r"(\\frac\{[^{}]*\})\s*([0-9a-zA-Z])", r"\1{\2}", text)
    return re.sub(r"\\sqrt\s*([0-9a-zA-Z])", r"\\sqrt{\1}", text)


def _tidy(text: str) -> str:
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r"(?:\\\\)?(?<![.;,])[.;,]+$", "", text).strip()
    return text


def compact(text: str) -> str:
    """For the comparison of strings: no spaces, no braces around one character."""
    text = re.sub(r"\s+", "", text)
    return re.sub(r"(?<=[\^_])\{([0-9a-zA-Z])\}", r"\1", text)
