"""What happens while a question is answered: the scaffold yields these in the order in which they happen.

`CandidateDelta`s of several candidates are interleaved. The last event is always `Selected`; a question that nobody
answers ends with an exception instead.
"""

from __future__ import annotations

from dataclasses import dataclass

from actors.checkers.extract import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE, THINK_OPEN
from actors.engine.chat import TokenLogprob, Usage
from actors.selection import Opinion, State


@dataclass(frozen=True)
class PlanReady:
    """The plan that every candidate is given; an empty `text` means none, and `reason` says why."""

    text: str
    steps: tuple[str, ...]
    usage: Usage
    reason: str = ""


@dataclass(frozen=True)
class CandidateDelta:
    """A piece of a candidate's text, thinking included, and how many tokens it has."""

    index: int
    text: str
    tokens: int


@dataclass(frozen=True)
class CandidateDone:
    """A candidate came to its end. `answer` is its text without the thinking; `seconds` since it was asked for."""

    index: int
    answer: str
    finish_reason: str
    tokens: int
    seconds: float
    confidence: float | None = None


@dataclass(frozen=True)
class CandidateFailed:
    """A candidate will not come to its end: the engine failed, the deadline passed, or the vote was decided."""

    index: int
    state: State
    reason: str
    tokens: int = 0


@dataclass(frozen=True)
class CandidateRestarted:
    """A candidate begins anew, as the engine that wrote it went away. What it wrote counts no more, its tokens do."""

    index: int
    reason: str
    tokens: int


@dataclass(frozen=True)
class Clustered:
    """The answers of the candidates in `indices`, compared; an entry a candidate (see actors.messages.Comparison).

    `error` is empty, or says why the verifier could not compare them: then the clusters go by the spelling only.
    """

    indices: tuple[int, ...]
    answers: tuple[str | None, ...]
    clusters: tuple[int, ...]
    passed: tuple[bool | None, ...]
    reasons: tuple[str, ...]
    error: str = ""


@dataclass(frozen=True)
class Judged:
    """What the judge said of the pairs of a tie, the points that follow (candidate, points), and its tokens."""

    opinions: tuple[Opinion, ...]
    points: tuple[tuple[int, float], ...]
    usage: Usage


@dataclass(frozen=True)
class CandidateSummary:
    """A candidate at the end: its state, its final answer as the verifier read it, its cluster, and its cost."""

    index: int
    state: State
    answer: str | None
    cluster: int
    passed: bool | None
    confidence: float | None
    tokens: int
    reason: str


@dataclass(frozen=True)
class Selected:
    """The winner. `text` is all that it wrote, `reasoning` and `answer` are its two parts; `why` is for people.

    `usage` counts the planner, all candidates (those that failed or were cancelled up to there) and the judge.
    `version` is the policy version that answered (-1: unknown).
    """

    index: int
    text: str
    reasoning: str
    answer: str
    why: str
    finish_reason: str
    usage: Usage
    candidates: tuple[CandidateSummary, ...]
    version: int = -1
    logprobs: tuple[TokenLogprob, ...] = ()


Event = (
    PlanReady
    | CandidateDelta
    | CandidateDone
    | CandidateFailed
    | CandidateRestarted
    | Clustered
    | Judged
    | Selected
)


def split_reasoning(text: str) -> tuple[str, str]:
    """(reasoning, answer) of a reply, without their tags.

    The reasoning ends at the last `</think>` (the `<think>` may have been in the prompt); where it never ends there is
    no answer. `<answer>` tags are taken off what they enclose.
    """
    reasoning, _, answer = text.rpartition(THINK_CLOSE)
    if THINK_OPEN in answer:  # thinking that never ends
        reasoning, answer = text, ""
    for tag in (THINK_OPEN, THINK_CLOSE):
        reasoning = reasoning.replace(tag, "")
    for tag in (ANSWER_OPEN, ANSWER_CLOSE):
        answer = answer.replace(tag, "")
    return reasoning.strip(), answer.strip()
