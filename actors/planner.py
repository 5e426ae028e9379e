"""Planner: how to go about a question, asked for once and shared by all that solve it.

A plan helps only as long as it is no answer: what states one is taken out (`without_answer`). A plan is never worth a
request: a planner that fails, or is late, gives an empty plan and the reason.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from actors.checkers.extract import NoAnswer, boxes
from actors.engine.chat import ChatEngine, ChatRequest, Usage
from actors.engine.partial import PartialReply
from actors.messages import Plan
from actors.prompts import parse_plan, plan_request

Effort = Literal["low", "medium", "high"]

MIN_WORDS = 4
_GREETING = re.compile(
    r"(?:hi|hello|hey|good (?:morning|afternoon|evening|day)|thanks?|thank you|ok(?:ay)?|yes|no|bye|goodbye|"
    r"how are you|who are you|what(?:'s| is) your name|what can you do)\b[\w\s,'!.?]{0,40}",
    re.IGNORECASE,
)
_NUMBER = r"(?<![\d.,])[-+]?\d++(?:[.,]\d++)*+"
_ARITHMETIC = re.compile(rf"(?:what(?:'s| is)|compute|calculate)?\s*{_NUMBER}\s*[-+*/×÷]\s*{_NUMBER}\s*[=?.]*", re.I)
_RESULT = re.compile(rf"({_NUMBER}\s*[-+*/×÷^]\s*{_NUMBER})\s*=\s*{_NUMBER}(?!\s*[-+*/×÷^\d])")
_EMPTY_ITEM = re.compile(r"^[ \t]*(?:\d{1,2}[.)]|[-*•])[ \t]*(?:\n|\Z)", re.MULTILINE)
_STATEMENT = re.compile(
    r"\b(?:answer|result|solution|output)s?\b\W{0,3}(?:(?:is|are|equals?|will be|must be|should be|would be)\b|[:=])"
    r"[\s:*_$]{0,4}(?P<said>[^\n]{0,200})",
    re.IGNORECASE,
)
_WORDS = (
    "true|false|yes|no|none|zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|forty|"
    "fifty|sixty|seventy|eighty|ninety|hundred|thousand"
)
_STATES = re.compile(
    r"(?i:(?:approximately|about|exactly|option|choice|simply|just)\s+)?(?:[A-Za-z]\w?\s*=\s*)?"
    rf"(?:[-+$(\[{{]*\d|[-+]?\\\w|['\"`]|\(?[A-J]\)?[\s.!,;]*$|(?i:(?:{_WORDS})(?:[-\s]\w+)?)[\s.!]*$)"
)
_BOX = "0\ue000"  # stands for a box: reads as a value, and is taken out at the end
_SENTENCE = re.compile(r"[^.!?\n]*(?:[.!?](?!\s|$)[^.!?\n]*)*[.!?]*[ \t]*\n?")


@dataclass(frozen=True)
class Planned:
    """The plan of one question, the tokens that it cost, and, where it is empty, why."""

    plan: Plan
    usage: Usage = Usage()
    reason: str = ""


class Planner:
    """Asks an engine for plans. Holds nothing but its settings, so one serves any number of requests at a time."""

    def __init__(self, max_tokens: int = 512, temperature: float = 0.7, timeout_s: float = 30.0) -> None:
        if max_tokens < 1 or timeout_s <= 0:
            raise ValueError(f"a planner needs max_tokens >= 1 and timeout_s > 0: {max_tokens}, {timeout_s}")
        self.max_tokens, self.temperature, self.timeout_s = max_tokens, temperature, timeout_s

    async def plan(
        self,
        question: str,
        engine: ChatEngine,
        *,
        history: Sequence[Mapping[str, Any]] = (),
        seed: int | None = None,
        timeout_s: float | None = None,
    ) -> Planned:
        """A plan for the question that follows the messages of `history`. Raises nothing that the engine does."""
        limit = self.timeout_s if timeout_s is None else min(self.timeout_s, timeout_s)
        request = ChatRequest(
            messages=(*history, {"role": "user", "content": plan_request(question)}),
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            seed=seed,
            timeout_s=limit,
            live=False,
        )
        reply = PartialReply()
        try:
            async with asyncio.timeout(limit):
                await reply.read(engine, request)
        except TimeoutError:
            return Planned(Plan(""), reply.usage, f"no plan within {limit:g} s")
        except Exception as failure:  # whatever the engine trips over, the question can be answered without a plan
            return Planned(Plan(""), reply.usage, f"the planner failed: {type(failure).__name__}: {failure}"[:300])
        plan = clean(parse_plan(reply.text))
        return Planned(plan, reply.usage, "" if plan.text else "the reply holds no plan")


def pays(question: str, effort: Effort) -> bool:
    """Whether a plan is likely to be worth its tokens: not at low effort, for a greeting, or for one sum."""
    text = question.strip()
    if effort == "low" or len(text.split()) < MIN_WORDS:
        return False
    return not (_GREETING.fullmatch(text) or _ARITHMETIC.fullmatch(text))


def clean(plan: Plan) -> Plan:
    """The plan without what states an answer, in its text and in each step; steps that state nothing else are gone."""
    steps = (without_answer(step) for step in plan.steps)
    return Plan(without_answer(plan.text), tuple(step for step in steps if step))


def without_answer(text: str) -> str:
    """The text without boxes, without sentences that state the answer, and without the results of sums.

    "The answer is 42." goes, "The answer is a sum of two terms." stays; "12 + 30 = 42" becomes "12 + 30".
    """
    try:
        for box in reversed(boxes(text)):
            text = f"{text[: box.start]}{_BOX}{text[box.end :]}"
    except NoAnswer:  # a box that is never closed: what follows it may be the answer
        text = re.split(r"\\(?:boxed|fbox)\b", text)[0]
    kept = [sentence for sentence in _SENTENCE.findall(text) if not _states_answer(sentence)]
    return _EMPTY_ITEM.sub("", _RESULT.sub(r"\1", "".join(kept).replace(_BOX, ""))).strip()


def _states_answer(sentence: str) -> bool:
    return any(_STATES.match(found["said"]) for found in _STATEMENT.finditer(sentence))
