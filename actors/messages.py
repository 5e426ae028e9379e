"""The messages that travel between actors: frozen dataclasses, and nothing else travels.

Words as in the design: a Problem is asked, a Plan may precede it, Completions answer it, a Verdict judges one
Completion, and a RolloutGroup is a Problem with its G Completions and their Verdicts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

DOMAINS = ("math", "code", "science", "logic", "simulation", "tabular")

Status = Literal["correct", "incorrect", "error"]


@dataclass(frozen=True)
class Problem:
    """One question with a verifiable answer.

    `ground_truth` is a JSON string whatever its type was in the file, so that rows of different files agree.
    `messages` are chat messages (`{"role", "content"}`), the user's question last. `max_tokens` bounds its answers
    below the sampling's own limit (0: that limit alone).
    """

    id: str
    messages: tuple[Mapping[str, str], ...]
    data_source: str
    domain: str
    ground_truth: str
    extra_info: Mapping[str, Any] = field(default_factory=dict)
    max_tokens: int = 0

    @property
    def question(self) -> str:
        """The text of the last user message."""
        return next(m["content"] for m in reversed(self.messages) if m["role"] == "user")

    @property
    def truth(self) -> Any:
        """The ground truth as the Python value it stands for."""
        return json.loads(self.ground_truth)


@dataclass(frozen=True)
class Plan:
    """How to go about a Problem: never its answer."""

    text: str
    steps: tuple[str, ...] = ()


@dataclass(frozen=True)
class Completion:
    """One answer of an engine.

    `token_ids` int32 [T] and `logprobs` float32 [T] (natural log, of the sampled tokens, under the sampling
    distribution) include the stop token where one was generated. `finish_reason` is "stop" or "length".
    `start_version` is the policy version when it was asked for, `end_version` that of its last token. Where weights
    came between two of its tokens, `versions` are the spans: (policy version, tokens), in order (empty: one alone).
    """

    text: str
    token_ids: np.ndarray
    logprobs: np.ndarray
    finish_reason: str
    start_version: int
    end_version: int
    versions: tuple[tuple[int, int], ...] = ()

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """(policy version, tokens sampled by it), in order; the tokens add up to all."""
        return self.versions or ((self.end_version, len(self.token_ids)),)

    @property
    def truncated(self) -> bool:
        return self.finish_reason == "length"


@dataclass(frozen=True)
class Verdict:
    """The judgement of one Completion. `error` means that the verifier failed, never that the answer is wrong."""

    status: Status
    score: float
    extracted: str = ""
    reason: str = ""
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.status not in ("correct", "incorrect", "error"):
            raise ValueError(f"unknown verdict status {self.status!r}")
        if not 0.0 <= self.score <= 1.0:
            raise ValueError(f"a verdict's score lies in [0, 1], not {self.score}")


@dataclass(frozen=True)
class Comparison:
    """Which of several texts answer one question alike; one entry a text in each tuple.

    `answers` are the final answers (None: the text states none), `clusters` number the equal ones from 0 (-1: no
    answer), `passed` says whether a program got the question's own examples right (None: there are none, it is no
    program, or it could not be run), `reasons` are for people.
    """

    answers: tuple[str | None, ...]
    clusters: tuple[int, ...]
    passed: tuple[bool | None, ...]
    reasons: tuple[str, ...]

    def __post_init__(self) -> None:
        if len({len(self.answers), len(self.clusters), len(self.passed), len(self.reasons)}) != 1:
            raise ValueError("a comparison has an answer, a cluster, a result and a reason for each text")


@dataclass(frozen=True)
class RolloutGroup:
    """A Problem, the tokens of its prompt (int32 [P]), its G Completions, and a Verdict for each (once verified).

    Where `parts` are there, the completions are plans, and `parts[i]` is the group of solutions under the i-th.
    """

    group_id: int
    problem: Problem
    prompt_ids: np.ndarray
    completions: tuple[Completion, ...]
    verdicts: tuple[Verdict, ...] = ()
    parts: tuple[RolloutGroup, ...] = ()

    @property
    def answers(self) -> tuple[RolloutGroup, ...]:
        """The groups whose completions answer the problem: its parts, or itself."""
        return self.parts or (self,)

    @property
    def start_version(self) -> int:
        """The oldest policy version in the group: what staleness is counted from."""
        return min(c.start_version for c in self.completions)


@dataclass(frozen=True)
class TokenBatch:
    """Tokens to learn from, without padding: what a Learner is given.

    B sequences of N tokens in all. `tokens` int32 [N], `lengths` int32 [B]. Each of `fields` is float32 [N] and
    belongs to the *same* token as `tokens`: `mask` (1 where the token is learnt, 0 for prompts), and what the loss
    asks for (`advantages`, `rollout_logprobs`, `old_logprobs`, ...).

    `micro_batches[r]` holds, for learner rank r, its micro-batches; a micro-batch is a tuple of rows, a row a tuple of
    sequence indices. The sequences of one row begin with the same `prefixes[i]` tokens, which are computed once for
    them all; a row of one sequence shares nothing, and one whose prefixes are 0 is merely filled (packing). Every
    rank has as many micro-batches as every other (FSDP collectives must match); some may be empty.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    prefixes: np.ndarray
    fields: Mapping[str, np.ndarray]
    micro_batches: tuple[tuple[tuple[tuple[int, ...], ...], ...], ...]

    @property
    def mask_tokens(self) -> float:
        """The number of learnt tokens in the whole batch: the denominator of a token-level loss."""
        return float(self.fields["mask"].sum())
