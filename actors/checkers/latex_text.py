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
    "⁄": "/",
    "∣": "|",
    "…": r"\ldots ",
    "⌊": r"\lfloor ",
    "⌋": r"\rfloor ",
    "⌈": r"\lceil ",
    "⌉": r"\rceil ",
    "⟨": r"\langle ",
    "⟩": r"\rangle ",
    "∧": r"\land ",
    "∨": r"\lor ",
    "∑": r"\sum ",
    "∏": r"\prod ",
    "∫": r"\int ",
    "¬": r"\neg ",
    "≈": r"\approx ",
    "ℝ": r"\mathbb{R}",
    "ℚ": r"\mathbb{Q}",
    "ℤ": r"\mathbb{Z}",
    "ℕ": r"\mathbb{N}",
    "ℂ": r"\mathbb{C}",
    "£": r"\pounds ",
    "€": r"\euro ",
}
_SUPERSCRIPTS, _SUBSCRIPTS = re.compile("[⁰¹²³⁴-⁹⁺⁻ⁿ]+"), re.compile("[₀-₉]+")
_ROOTS = re.compile(r"([√∛∜])\s*(?:([0-9]+|[a-zA-Z])|(?=[{(]))")
_DEGREES = {"√": "", "∛": "[3]", "∜": "[4]"}
_GREEK = re.compile(r"(?:MATHEMATICAL [A-Z -]*?|GREEK )(?:(CAPITAL)|SMALL) (?:LETTER )?([A-Z]{2,})")
_BIDI = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_DROPPED_COMMANDS = re.compile(
    r"\\(?:left|right|bigl|bigr|Bigl|Bigr|biggl|biggr|big|Big|bigg|Bigg|displaystyle|textstyle|limits|nolimits|"
    r"mathstrut|phantom|hfill|rm|bf|it|tiny|small|normalsize|large|Large|LARGE|huge|Huge)(?![a-zA-Z])"
)
_INVISIBLE = re.compile(
    r"\\(?:left|right)\s*\.|\\(?:begin|end)\s*\{(?:aligned|align|equation|gathered|gather|split|displaymath)\*?\}"
)
_FONT = re.compile(
    r"\\(?:mathbf|mathit|mathsf|mathcal|mathtt|boldsymbol|bm|pmb|ensuremath|boxed|fbox|underline)\s*(?={)"
)
_OPERATOR = re.compile(r"\\operatorname\*?\s*\{\s*([a-zA-Z0-9]+)\s*\}")
_FUNCTION_TEXT = re.compile(r"\\(?:text|mathrm)\s*\{\s*(sin|cos|tan|cot|sec|csc|cis|ln|log|exp|gcd|lcm|max|min)\s*\}")
_TEXT_FONT = re.compile(r"\\(?:mathrm|textbf|textit|textrm|texttt|textsf|emph|mbox|hbox|textnormal)\s*(?={)")
_COLOR = re.compile(r"\\color\s*\{[^{}]*\}|\\textcolor\s*\{[^{}]*\}(?=\s*\{)")
_SPACES = re.compile(r"(?<!\\)\\[,;:!> ]|\\quad|\\qquad|~|\\enspace|\\thinspace|\\medspace|\\hspace\*?\{[^{}]*\}")
_THIN_THOUSANDS = re.compile(r"(?<=\d)(?:\\,|\\;|\\!|\{,\}|,\\!|\\ |\u2009|\u202f|\u00a0)(?=\d{3}(?!\d))")
# a run of digits is tried once, not at each digit
_REPEATING = re.compile(r"(?<!\d)(\d*)\.(\d*)\\(?:overline|bar|dot)\{(\d+)\}")
_ELLIPSIS = re.compile(r"([-+]?\d*\.\d{0,9}?)(\d{1,9})\2{2,9}(?:\.\.\.|\\[lcd]?dots)")
_BRACKETED_CYCLE = re.compile(r"([-+]?\d*\.)\((\d+)\)")
_SPACED_THOUSANDS = re.compile(r"(?<![\d.,/^_] )(?<![\d.,/^_])\d{1,3}(?: \d{3})+(?![\d/.]| ?/| \d)")
_OVER = re.compile(r"\{([^{}]*)\\(over|choose)(?![a-zA-Z])([^{}]*)\}")
_PREFACE = re.compile(r"\\text\s*\{\s*(?:the )?(?:final )?answer(?: is)?\s*:?\s*(?:\}|(?=[^{}]*\}))", re.IGNORECASE)
_MARKDOWN = re.compile(r"(\*\*|\*|`)([^*`]+)\1")
_RENAMED = {
    r"\nicefrac": r"\frac", r"\sfrac": r"\frac", r"\surd": r"\sqrt ", r"\lg": r"\log_{10} ", r"\lt": "<", r"\gt": ">",
    r"\cr": r"\\\\ ", r"\lbrack": "[", r"\rbrack": "]", r"\imath": " i ", r"\backslash": r"\setminus ",
    r"\lvert": "|", r"\rvert": "|", r"\vert": "|", r"\mid": "|", r"\wedge": r"\land ", r"\vee": r"\lor ",
}  # fmt: skip
_RENAMES = re.compile(r"\\(?:" + "|".join(name[1:] for name in _RENAMED) + r")(?![a-zA-Z])")
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
    for command in (r"\dfrac", r"\tfrac", r"\cfrac", r"\dbinom"):
        text = text.replace(command, "\\" + command[2:])
    text = re.sub(r"\\\\(?=[a-zA-Z])", r"\\", text) if "\\begin" not in text else text
    text = re.sub(r"\\(?:lbrace|\{)", r"\\{", text)
    text = re.sub(r"\\(?:rbrace|\})", r"\\}", text)
    text = re.sub(r"\\\\\s*\[[0-9. a-z]*\]", r"\\\\ ", text)  # the end of a matrix's row, with a distance
    text = text.replace(r"\(", "").replace(r"\)", "").replace(r"\[", "").replace(r"\]", "").replace("{.}", ".")
    text = _RENAMES.sub(lambda m: _RENAMED[m.group()], text)
    text = text.replace(r"\$", r"\dollar ").replace("$", "").replace("**", "^")
    text = text.replace(r"\%", "%").replace(r"\degree", r"^\circ")
    text = _OPERATOR.sub(r" \1 ", _COLOR.sub("", _INVISIBLE.sub("", text)))
    text = re.sub(r"^\\text\s*\{\s*(?:minus|negative)\s*\}", "-", text)
    text = _FUNCTION_TEXT.sub(r" \1 ", _PREFACE.sub(_without_preface, text))
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
    text = text.replace(r"^{\circ}", r"^\circ")
    text = _FUNCTION_WORDS.sub(lambda m: "\\" + _SPELLED.get(m.group(1), m.group(1)) + " ", text)
    if r"\int" in text:
        text = _FRACTION_OF_D.sub(r"\\frac{1}{\2} d\1", text)
    text = _REPEATING.sub(_repeating, _endless(text.strip()))
    text = _braces(text)
    return _unwrapped(_tidy(text))


def _without_preface(match: re.Match[str]) -> str:
    return "" if match.group().endswith("}") else r"\text{"


def _endless(text: str) -> str:
    """`0.333...` and `0.(3)`, where they are all of the text, as `0.\\overline{3}`."""
    if len(text) > 60:
        return text
    found = _ELLIPSIS.fullmatch(text) or _BRACKETED_CYCLE.fullmatch(text)
    return rf"{found.group(1)}\overline{{{found.group(2)}}}" if found else text


def _unwrapped(text: str) -> str:
    """Without braces around all of it, and with `\\over` outside of any braces as a fraction."""
    for _ in range(40):
        if not (text.startswith("{") and text.endswith("}") and _closes_at_end(text)):
            break
        text = text[1:-1].strip()
    if text.count(r"\over ") == 1 and "{" not in text:
        return r"\frac{%s}{%s}" % tuple(part.strip() for part in text.split(r"\over "))
    return text


def _closes_at_end(text: str) -> bool:
    depth = 0
    for position, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return position == len(text) - 1
    return False


def _strip_wrappers(text: str) -> str:
    """Leave out the outer parentheses of `((7))`, in linear time and before the cap on the length."""
    text = text.strip()
    if text.endswith("\\"):  # a space or a new line at the end
        text = text.rstrip("\\ ")
    if text.endswith((".", ";", ",")) and not text.endswith(("..", r"\,", r"\;")):
        text = text[:-1].strip()
    if len(text) <= MAX_LENGTH and (marked := _MARKDOWN.fullmatch(text)):
        text = marked.group(2).strip()
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
    text = _ROOTS.sub(_root, text)
    text = _SUPERSCRIPTS.sub(lambda m: _script("^", m.group()), text)
    text = _SUBSCRIPTS.sub(lambda m: _script("_", m.group()), text)
    return "".join(map(_from_character, text))


def _root(match: re.Match[str]) -> str:
    degree, radicand = _DEGREES[match.group(1)], match.group(2)
    return rf"\sqrt{degree}" + (f"{{{radicand}}}" if radicand else "")


def _script(mark: str, characters: str) -> str:
    plain = unicodedata.normalize("NFKC", characters).replace("−", "-")
    return mark + (plain if len(plain) == 1 else f"{{{plain}}}")


def _from_character(character: str) -> str:
    if character.isascii():
        return character
    if character in _UNICODE:
        return _UNICODE[character]
    if greek := _GREEK.fullmatch(unicodedata.name(character, "")):
        name = greek.group(2).lower().replace("lamda", "lambda")
        return rf"\{name.capitalize() if greek.group(1) else name} "
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


_FRACTION_OF_D = re.compile(r"\\frac\s*\{\s*d\s*([a-z])\s*\}\s*\{([^{}]*)\}")


def _braces(text: str) -> str:
    """`\\frac12`, `\\frac1{2}`, `\\sqrt3` with their braces."""
    text = _OVER.sub(lambda m: (r"\frac{%s}{%s}" if m.group(2) == "over" else r"\binom{%s}{%s}") % m.group(1, 3), text)
    text = re.sub(r"\\frac\s*([0-9a-zA-Z])\s*([0-9a-zA-Z])", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac\s*([0-9a-zA-Z])\s*\{", r"\\frac{\1}{", text)
    text = re.sub(r"(\\frac\{[^{}]*\})\s*([0-9a-zA-Z])", r"\1{\2}", text)
    return re.sub(r"\\sqrt\s*([0-9a-zA-Z])", r"\\sqrt{\1}", text)


def _tidy(text: str) -> str:
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r"(?:\\\\)?(?<![.;,])[.;,]$", "", text).strip()
    return _SPACED_THOUSANDS.sub(lambda m: m.group().replace(" ", ""), text)


def compact(text: str) -> str:
    """For the comparison of strings: no spaces but between digits, no braces around one character."""
    text = re.sub(r"\s+", "", re.sub(r"(?<=\d)\s+(?=\d)", "~", text))
    return re.sub(r"(?<=[\^_])\{([0-9a-zA-Z])\}", r"\1", text)
