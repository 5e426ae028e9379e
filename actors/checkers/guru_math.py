"""Equality of two mathematical answers in the `guru` profile: the public Guru verifiers' chain, without `eval`.

Four stages, the first that says equal wins (naive_dapo and prime_math of LLM360/Reasoning360): the MATH data set's
spelling rules; the PRM800K grader's; exact equality of an expression or of a tuple's items; and numbers to a relative
1e-4, up to a factor of 100, or else expressions to the same tolerance. This is the chain at the time Guru's models were
trained; a later version of the code lost its comparison of expressions to an exception. What other libraries evaluated
there is read by this project's own parser, so a few expressions that one of the two cannot read are judged otherwise.
"""

from __future__ import annotations

import re
from math import isclose

from actors.checkers import evaluate, expression, latex_text
from actors.checkers.expression import Node, ParseError, TooCostly

TOLERANCE = 1e-4  # relative
MAX_LENGTH = 1000  # characters of an answer that are compared by value

_ENCLOSING_TEXT = re.compile(r"\\text\{(.+)\}")
_UNITS = re.compile(
    r"(?:degree|cm|centimeter|meter|mile|second|minute|hour|day|week|month|year|foot|feet|inch|yard|liter)"
    r"(?:es)?s? *(?:\^[0-9]+)?"
)
_SCALES = {"million": "*10^6", "billion": "*10^9", "trillion": "*10^12"}
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_WORD = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{3,}")
_NOT_COUNTED = re.compile(r"\\(?:sqrt|frac|cdot|times)(?![a-zA-Z])")
_UNSAFE_POWER = re.compile(r"\^[{(]|\^[0-9]+\^|\^[0-9]{2}")


def equal(answer: str, truth: str) -> bool:
    """Whether `answer` would have earned the reward for `truth`."""
    if _spelling(answer) == _spelling(truth):
        return True
    left, right = _normal(answer), _normal(truth)
    if left == right or (left and _same_items(left, right)):
        return True
    if r"\pi" in answer or r"\pi" in truth:  # this path of the last stage failed in every version: 6.28 is not 2\pi
        return False
    return same_value(answer, truth)


# --- the first stage: spelling, by the rules of the MATH data set (Hendrycks et al., 2021) ----------------------------


def _spelling(text: str) -> str:
    return strip_string(_untexted(text.strip()).strip())


def _untexted(text: str) -> str:
    """`\\text{...}` around everything is taken off."""
    whole = _ENCLOSING_TEXT.fullmatch(text)
    return whole.group(1) if whole else text


def strip_string(text: str) -> str:
    """One spelling of a LaTeX answer: no units, spaces, signs of sizes, currency or per cent; fractions with braces."""
    if text.count(r"\text{ ") > 1:  # not the one unit at the end that the rules know of: left as it is
        return text
    text = text.replace("\n", "").replace(r"\!", "").replace("\\\\", "\\")
    text = text.replace("tfrac", "frac").replace("dfrac", "frac").replace(r"\left", "").replace(r"\right", "")
    text = text.replace(r"^{\circ}", "").replace(r"^\circ", "").replace(r"\$", "")
    text = text.partition(r"\text{ ")[0].replace(r"\%", "")
    text = text.replace(" .", " 0.").replace("{.", "{0.")
    if text.startswith("."):
        text = "0" + text
    name, equals, value = text.partition("=")
    if equals and "=" not in value and len(name) <= 2:
        text = value
    text = re.sub(r"\\sqrt([^{])", r"\\sqrt{\1}", text).replace(" ", "")
    text = re.sub(r"\\frac([^{])([^{])", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac([^{])\{", r"\\frac{\1}{", text)
    if text == "0.5":
        return r"\frac{1}{2}"
    return re.sub(r"\A(-?(?:0|[1-9]\d*))/(-?(?:0|[1-9]\d*))\Z", r"\\frac{\1}{\2}", text)


# --- the second and third stages: the grader of PRM800K (Lightman et al., 2023) ---------------------------------------


def _normal(text: str) -> str:
    """Without currency, per cent and unit words; lower case; integers in one spelling."""
    text = _untexted(text).replace(r"\%", "").replace(r"\$", "").replace("$", "").replace("%", "")
    text = text.replace(" or ", " , ").replace(" and ", " , ")
    for word, power in _SCALES.items():
        text = text.replace(word, power)
    text = re.sub(r"\^ *\\circ", "", _UNITS.sub("", text))
    if text.startswith("{") and text.endswith("}"):
        text = text[1:-1]
    try:
        text = latex_text.compact(latex_text.clean(text)) if "\\" in text else text
    except latex_text.Unreadable:
        return text.lower()
    text = re.sub(r"- *", "-", text)
    text = re.sub(r"(\d) +(?=\d)", r"\1+", text).lower()  # a mixed number
    number = _number(_THOUSANDS.sub("", text))
    return str(round(number)) if number is not None and _whole(number) else text


def _same_items(answer: str, truth: str) -> bool:
    """Exact equality, item by item where both are tuples; a whole number equals only a whole number."""
    left, right = _items(answer), _items(truth)
    if len(left) != len(right) or (len(right) > 1 and (answer[0], answer[-1]) != (truth[0], truth[-1])):
        return False
    return all(_is_integer(a) == _is_integer(b) and _same_expression(a, b) for a, b in zip(left, right, strict=True))


def _items(text: str) -> list[str]:
    text = _THOUSANDS.sub("", text)
    inner = text[1:-1]
    if len(text) > 2 and text[0] in "([" and text[-1] in ")]" and not set(inner) & set("()[]"):
        return [item.strip() for item in inner.split(",")]
    return [text]


def _same_expression(left: str, right: str) -> bool:
    """Of at most two letters (`\\pi` has two), and without powers that were feared to take long."""
    letters = {character for character in _NOT_COUNTED.sub("", left + right) if character.isalpha()}
    if len(letters) > 2 or _UNSAFE_POWER.search(left) or _UNSAFE_POWER.search(right):
        return False
    return _agree(left, right, None)


# --- the last stage: values -------------------------------------------------------------------------------------------


def same_value(answer: str, truth: str, tolerance: float = TOLERANCE) -> bool:
    """Numbers up to the tolerance and a factor of 100 either way; lists item by item in order; else expressions."""
    if "_" in answer + truth:
        return _same_bases(answer, truth)
    answer, truth = _plain(answer)[:MAX_LENGTH].strip(), _plain(truth).strip()
    if answer.lower() == truth.lower() or answer.replace(" ", "") == truth.replace(" ", ""):
        return True
    said, wanted = _number(answer), _number(truth)
    if said is not None and wanted is not None:
        return any(isclose(target, said, rel_tol=tolerance) for target in (wanted / 100, wanted, wanted * 100))
    if not answer:
        return False
    return _same_unbracketed(answer, truth) or _same_list(answer, truth, tolerance) or _agree(answer, truth, tolerance)


def _same_bases(answer: str, truth: str) -> bool:
    """`101_2`: the digits before the subscript count, whatever the base; a name with a subscript is no number."""
    left, right = (_number(text.partition("_")[0]) for text in (answer, truth))
    return left is not None and right is not None and same_value(str(left), str(right))


def _plain(text: str) -> str:
    """Without the sign of dollars before a number and of per cent after it."""
    if re.match(r"\$\d", text):
        return text[1:]
    percent = re.fullmatch(r"(\d+(?:\.\d+)?)\\?%", text)
    return percent.group(1) if percent else text


def _number(text: str) -> float | None:
    try:
        return float(text.replace("{,}", "").replace(",", ""))
    except ValueError:
        return None


def _whole(number: float) -> bool:
    return abs(number) < 1e300 and abs(number - round(number)) <= 1e-7


def _is_integer(text: str) -> bool:
    number = _number(text)
    return number is not None and _whole(number)


def _same_unbracketed(answer: str, truth: str) -> bool:
    """The same but for brackets: those of an answer that has the other kind than the ground truth count."""
    for kind, other in (("[]", "("), ("()", "[")):
        if answer.startswith(kind[0]) and answer.endswith(kind[1]) and not truth.startswith(other):
            answer, truth = answer.strip("[]()"), truth.strip("[]()")
            break
    return re.sub(r"[{}()]", "", answer) == re.sub(r"[{}()]", "", truth)


def _same_list(answer: str, truth: str, tolerance: float) -> bool:
    if answer[0] in "([" and answer[-1] in ")]" and (answer[0], answer[-1]) == (truth[:1], truth[-1:]):
        answer, truth = answer[1:-1], truth[1:-1]
    items, wanted = answer.split(","), truth.split(",")
    if len(items) != len(wanted) or len(items) < 2:
        return False
    return all(same_value(a.strip(), b.strip(), tolerance) for a, b in zip(items, wanted, strict=True))


def _agree(left: str, right: str, tolerance: float | None) -> bool:
    """Equality of two expressions: everywhere, or (with a tolerance) of their numerical values."""
    try:
        nodes = _node(left), _node(right)
        if evaluate.equal(*nodes):
            return True
        # 0.3333 is off 1/3 by the tolerance itself, and was measured to be wrong
        return tolerance is not None and isclose(*map(evaluate.real, nodes), rel_tol=tolerance * (1 - 1e-9))
    except (ParseError, TooCostly, evaluate.Undefined, latex_text.Unreadable):
        return False


def _node(text: str) -> Node:
    """The tree of an expression; words are none, though their letters could be read as a product."""
    cleaned = latex_text.clean(text)
    if _WORD.search(cleaned):
        raise ParseError("a word")
    return expression.parse(cleaned)
