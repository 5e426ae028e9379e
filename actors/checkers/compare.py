"""Which of several answers to one question are the same answer, where no ground truth is known.

`compare` takes the texts of completions and gives each a cluster: texts of one cluster state equal answers by the
equality of the checkers (mathematics with units, choices, orderings, literals, plain words), programs do the same on
the same inputs (behaviour.py). Equality is not transitive (5 cm is 5, and 5 is 5 m): an answer joins a cluster only if
it equals every member, the most frequent forms first, so the order in which the texts come does not matter.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from actors.checkers import math
from actors.checkers.behaviour import agreement, observe
from actors.checkers.examples import asks_for_python, function_name, public_tests
from actors.checkers.extract import NoAnswer, answer_tag, boxes, code_block, fences, final_part
from actors.checkers.logic import literal
from actors.checkers.plain import encode, same
from actors.checkers.science import read_choice
from actors.checkers.tools import Tools
from actors.messages import Comparison

T = TypeVar("T")

MAX_STATED = 300  # characters of an answer stated in a sentence
MAX_COMPARED = 1000  # characters of an answer that is read as mathematics
_PROGRAM = re.compile(r"\b(?:def|lambda|import|class|print)\b")
_CHOICES = tuple(re.compile(rf"(?<!\w)\(?{letter}[).:]\s") for letter in "AB")
_ORDER = re.compile(
    r"\b(?:order|sort|rank|arrange|sequence)\b[^.?!]{0,200}?\b(?:from|by|first|in|ascending|descending)\b", re.I
)
_STATED = re.compile(r"\banswer\b[\s*_]*(?:is|are|=|:)[\s*_:]*(.+)", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)")
_EDGES = " \t\n.*_`\"'$"


@dataclass(frozen=True)
class Answer:
    """A final answer as text. `domain` says by which equality it is compared; None: mathematics, or else text."""

    domain: str | None
    text: str


def domain_of(question: str) -> str | None:
    """How answers to a question compare: "code" by behaviour, "science" as choices, "logic" in order; else None."""
    if asks_for_python(question):
        return "code"
    if all(option.search(question) for option in _CHOICES):
        return "science"
    return "logic" if _ORDER.search(question) else None


def answer_of(text: str, domain: str | None = None) -> Answer | None:
    """The final answer in a completion; None where it states none, or hedges, or was cut off in its thinking."""
    try:
        return Answer(domain, code_block(text) if domain == "code" else _stated(text))
    except NoAnswer:
        return None


def _stated(text: str) -> str:
    """In `<answer>` or a box, else after "the answer is", else in the last fence, else a short rest."""
    part = final_part(text)
    if answer_tag(part) is not None or boxes(part):
        answer = math.extract(text)
    elif stated := _STATED.findall(part[-5000:]):
        answer = _SENTENCE_END.split(stated[-1].strip())[0][:MAX_STATED].strip(_EDGES)
    elif blocks := fences(part):
        answer = blocks[-1].content
    else:
        answer = math.extract(text)
    if not answer.strip(_EDGES):
        raise NoAnswer("no answer: it is empty")
    return answer.strip()


def spelling(text: str) -> str:
    """The text without regard to case, spacing, and the marks around it."""
    return " ".join(text.casefold().split()).strip(_EDGES)


def equivalent(a: Answer, b: Answer, tools: Tools | None = None) -> bool:
    """Whether two answers are the same one. Programs are run (with `tools`) on inputs made up for them."""
    if a.domain == b.domain == "code":
        tools = tools or Tools()
        behaviours = [observe(answer.text, (), None, tools, tools.code_budget_s / 2) for answer in (a, b)]
        return agreement(behaviours)(*behaviours)
    if spelling(a.text) == spelling(b.text):
        return True
    if "science" in (a.domain, b.domain):
        letters = read_choice(a.text), read_choice(b.text)
        if None not in letters:
            return letters[0] == letters[1]
    left, right = _structure(a.text), _structure(b.text)
    if left and right:
        return same(left.value, right.value, strict=False)
    listed = [value for value in (left, right) if value and isinstance(value.value, list)]
    if listed or "logic" in (a.domain, b.domain):
        return _names(a.text) == _names(b.text)
    if left or right:
        plain = left or right
        return spelling(str(plain.value)) == spelling(b.text if left else a.text)
    return _same_parts(a.text, b.text) or _same_value(a.text, b.text)


@dataclass(frozen=True)
class _Structure:
    """The value of a literal, in the form in which values compare (plain.py)."""

    value: Any


def _structure(text: str) -> _Structure | None:
    """What an object or a list of other things than numbers spells (points and intervals are mathematics).

    `{"output": 7}` is 7.
    """
    if text[:1] not in ("{", "["):
        return None
    try:
        value = literal(text)
        if isinstance(value, dict):
            named = len(value) == 1 and next(iter(value)) in ("output", "input")
            return _Structure(encode(next(iter(value.values())) if named else value))
        if isinstance(value, list) and not all(type(item) in (int, float) for item in value):
            return _Structure(encode(value))
    except (NoAnswer, TypeError, RecursionError):
        return None
    return None


def _names(text: str) -> list[str]:
    inner = re.sub(r"\\text\s*|[{}\[\]()\\]", "", text)
    return [name for part in re.split(r"[,;\n>]|\band\b", inner) if (name := spelling(part))]


def _same_parts(left: str, right: str) -> bool:
    """`a|b` is `b|a`."""
    if "|" not in left or "|" not in right:
        return False
    return Counter(map(spelling, left.split("|"))) == Counter(map(spelling, right.split("|")))


def _same_value(left: str, right: str) -> bool:
    """Equality of mathematics, in either direction: which of the two is the truth is not known."""
    if max(len(left), len(right)) > MAX_COMPARED:
        return False
    return math.compare(left, right)[0] or math.compare(right, left)[0]


# --- clusters -------------------------------------------------------------------------------------------------------


def compare(
    question: str,
    texts: Sequence[str],
    tools: Tools | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Comparison:
    """Answer, cluster, and result on the question's examples (programs only) of each text.

    Takes about `tools.code_budget_s` seconds at most: what cannot be compared in time, or fails to, is compared by
    spelling.
    """
    tools = tools or Tools()
    domain = domain_of(question)
    answers = [answer_of(text, domain) for text in texts]
    if any(answer and answer.domain == "code" and _PROGRAM.search(answer.text) for answer in answers):
        return _compare_programs(question, answers, tools)
    if domain == "code":  # a question about programs, after all
        domain, answers = None, [answer_of(text) for text in texts]
    deadline = clock() + tools.code_budget_s
    failures: list[str] = []

    def alike(a: Answer, b: Answer) -> bool:
        if clock() >= deadline:
            failures.append("compared by spelling: the time was up")
            return spelling(a.text) == spelling(b.text)
        try:
            return equivalent(a, b, tools)
        except Exception as failure:  # an equality that fails says nothing about the answers
            failures.append(f"compared by spelling: {type(failure).__name__}: {failure}"[:300])
            return spelling(a.text) == spelling(b.text)

    clusters = _clusters(answers, lambda answer: answer.text, alike)
    reasons = ["; ".join(failures[:1]) if answer else "no answer" for answer in answers]
    return _comparison(answers, clusters, [None] * len(texts), reasons)


def by_spelling(texts: Sequence[str]) -> Comparison:
    """Answers and clusters without any equality but the spelling's: cheap and safe in any process."""
    answers = [answer_of(text) for text in texts]
    clusters = _clusters(answers, lambda answer: spelling(answer.text), lambda a, b: False)
    how = "compared by spelling" if len(texts) > 1 else "nothing to compare it with"
    return _comparison(answers, clusters, [None] * len(texts), [how if answer else "no answer" for answer in answers])


def _compare_programs(question: str, answers: Sequence[Answer | None], tools: Tools) -> Comparison:
    """Each program is run once, all with the same share of the time."""
    tests, function = public_tests(question), function_name(question)
    programs = {answer.text for answer in answers if answer}
    share = tools.code_budget_s / len(programs)
    seen = {program: observe(program, tests, function, tools, share) for program in sorted(programs)}
    behaviours = [seen[answer.text] if answer else None for answer in answers]
    clusters = _clusters(behaviours, lambda b: b.form, agreement(list(seen.values())))
    passed = [b.passed if b else None for b in behaviours]
    return _comparison(answers, clusters, passed, [b.reason if b else "no answer" for b in behaviours])


def _comparison(
    answers: Sequence[Answer | None], clusters: Sequence[int], passed: Sequence[bool | None], reasons: Sequence[str]
) -> Comparison:
    said = tuple(answer.text if answer else None for answer in answers)
    return Comparison(said, tuple(clusters), tuple(passed), tuple(reasons))


def _clusters(items: Sequence[T | None], form: Callable[[T], str], alike: Callable[[T, T], bool]) -> list[int]:
    """A cluster's number for each item, counted from 0 in the order of appearance; -1 for None.

    Items of one form are alike. The forms join clusters in the order of their frequency, then of their text.
    """
    forms = Counter(form(item) for item in items if item is not None)
    example = {form(item): item for item in reversed(items) if item is not None}
    groups: list[list[str]] = []
    for name in sorted(forms, key=lambda name: (-forms[name], name)):
        home = next((g for g in groups if all(alike(example[name], example[member]) for member in g)), None)
        if home is None:
            groups.append([name])
        else:
            home.append(name)
    number = {name: index for index, group in enumerate(groups) for name in group}
    found = [-1 if item is None else number[form(item)] for item in items]
    order = list(dict.fromkeys(cluster for cluster in found if cluster >= 0))
    return [-1 if cluster < 0 else order.index(cluster) for cluster in found]
