"""One row on its way through a preparation: a problem to learn from by trying, or a worked answer to learn from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from actors.messages import DOMAINS
from conf.schema import Config
from rl.prepare.seen import hashes, squeezed
from rl.problems import am_thinking, guru
from rl.problems.schema import Row, RowError

RL, SFT = "rl", "sft"


@dataclass(slots=True)
class Sample:
    """`row` is what is written; `question` and `answer` (ground truth, or the assistant's turns) are its texts.

    `group` is what the card counts it under: a data source, or a subset's file name. `number` is the row's in its file.
    """

    kind: str
    number: int
    row: Row
    group: str
    domain: str
    question: str
    answer: str
    rates: list[float] = field(default_factory=list)
    renamed_from: str = ""


class Converter:
    """Raw rows of one source to Samples. Raises RowError (Malformed for a trace that is no use)."""

    def __init__(self, cfg: Config) -> None:
        self.source = cfg.prepare.source

    def __call__(self, raw: Row, number: int, where: str, subset: str) -> Sample:
        if self._is_worked(raw):
            return _worked(raw, number, where, subset, traces=self.source == "am_thinking")
        return _problem(raw, number, where)

    def _is_worked(self, raw: Row) -> bool:
        if self.source in ("guru", "reasoning_gym"):
            return False
        return self.source == "am_thinking" or (
            raw.get("prompt") is None and any(raw.get(name) is not None for name in am_thinking.COLUMNS))


def _worked(raw: Row, number: int, where: str, subset: str, traces: bool) -> Sample:
    messages = am_thinking.messages_of(raw, where, traces)
    named = raw.get("subset")
    group = named if isinstance(named, str) and named else subset
    question = "\n".join(m["content"] for m in messages if m["role"] == "user")
    answer = "\n".join(m["content"] for m in messages if m["role"] == "assistant")
    domain = group if group in DOMAINS else ""
    return Sample(SFT, number, {"messages": messages, "subset": group}, group, domain, question, answer)


def _problem(raw: Row, number: int, where: str) -> Sample:
    made = guru.convert(raw, where)
    problem = made.problem
    question = "\n".join(message["content"] for message in problem.messages)
    rates = guru.pass_rates(raw, problem)
    return Sample(RL, number, made.row, problem.data_source, problem.domain, question, problem.ground_truth, rates,
                  made.renamed_from)


def question_of(raw: Mapping[str, Any]) -> str:
    """The question of an evaluation set's row, whatever its columns are. Raises RowError."""
    for name in ("problem", "question", "prompt", "messages", "conversations", "input", "text"):
        value = raw.get(name)
        if isinstance(value, str) and value.strip():
            return value
        if isinstance(value, list) and value:
            turns = [turn for turn in value if isinstance(turn, dict)]
            asked = [str(turn.get("content") or turn.get("value") or "") for turn in turns
                     if (turn.get("role") or turn.get("from")) in ("user", "human")]
            if asked:
                return "\n".join(asked)
    raise RowError("", "question", f"is missing, and so are problem, prompt and messages (columns: {', '.join(raw)})")


def exact_keys(samples: Iterable[Sample]) -> np.ndarray:
    """uint64 [B]: question and answer, to the letter."""
    return hashes(sample.question + "\0" + sample.answer for sample in samples)


def loose_keys(samples: Sequence[Sample]) -> tuple[np.ndarray, np.ndarray]:
    """uint64 [B] twice, of samples of one kind: what is asked, and that with its answer, without white space and case.

    Two answers to one question contradict each other where they are ground truths, and are two examples where they
    are worked: of those, both keys are the second.
    """
    questions = [squeezed(sample.question) for sample in samples]
    whole = hashes(q + "\0" + squeezed(sample.answer) for q, sample in zip(questions, samples))
    return (hashes(questions) if samples[0].kind == RL else whole), whole
