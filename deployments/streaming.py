"""What the backend yields, as OpenAI's chunks; the chunks as one reply, or as server-sent events. Pure.

A reply that is not streamed is the same chunks put together (`fold`), so the two can never tell different things.
`ChatChunks` takes the scaffold's events, `SampleChunks` what the engine says when it is asked directly.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from actors.engine.chat import Chunk, EngineError, EngineGone, TokenLogprob, Usage
from deployments.events import (
    CandidateDelta,
    CandidateDone,
    CandidateFailed,
    CandidateRestarted,
    Clustered,
    Event,
    Judged,
    PlanReady,
    Selected,
)
from deployments.splitter import ReplySplitter

Json = dict[str, Any]

LEAST_LOGPROB = -9999.0  # stands for minus infinity, which JSON cannot say
WIRE_NAMES = {
    PlanReady: "plan",
    CandidateDelta: "delta",
    CandidateDone: "candidate",
    CandidateFailed: "candidate",
    CandidateRestarted: "restarted",
    Clustered: "votes",
    Judged: "judged",
    Selected: "selected",
}
NOT_ON_THE_WIRE = ("usage", "logprobs", "text", "reasoning")  # of Selected: the reply itself has them


def encode_event(payload: Mapping[str, Any]) -> bytes:
    """A server-sent event whose data is `payload`."""
    return b"data: " + encode_json(payload) + b"\n\n"


def encode_json(payload: Any) -> bytes:
    """JSON in UTF-8, whatever models put into texts; raises ValueError for a number that JSON cannot say."""
    text = json.dumps(payload, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")


def usage_json(usage: Usage) -> Json:
    """OpenAI's usage object."""
    return asdict(usage) | {"total_tokens": usage.total_tokens}


def event_json(event: Event) -> Json:
    """An event as clients see it: {"type": plan | delta | candidate | votes | judged | selected, ...}."""
    fields = asdict(event)
    if isinstance(event, CandidateDone):
        fields["state"] = "finished"
    dropped = NOT_ON_THE_WIRE if isinstance(event, Selected) else ("usage",)
    return {"type": WIRE_NAMES[type(event)]} | {name: _finite(v) for name, v in fields.items() if name not in dropped}


def _finite(value: Any) -> Any:
    """The value with None for the numbers that JSON cannot say."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class Envelope:
    """What every chunk of one reply has in common. `created` is in seconds since 1970."""

    id: str
    created: int
    model: str
    object: str = "chat.completion.chunk"

    def chunk(self, choices: list[Json], **more: Any) -> Json:
        """A chunk with these choices; `more` are further fields, None ones left out."""
        known = {"id": self.id, "object": self.object, "created": self.created, "model": self.model}
        return known | {"choices": choices} | {name: value for name, value in more.items() if value is not None}


def choice(index: int, delta: Json, finish_reason: str | None = None, logprobs: Json | None = None) -> Json:
    """A choice of a chat chunk."""
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}


class ChatChunks:
    """The chunks of an answer of the scaffold.

    Streamed, the plan and a line for each thing that happens come as reasoning while they happen, then the chosen
    trace and the answer; a single candidate (`live`) is passed on as it writes. `explain` adds the events themselves,
    as `raythink` objects. `usage` counts along, so that it is near the truth where a reply breaks off.
    """

    def __init__(
        self,
        envelope: Envelope,
        *,
        streamed: bool,
        live: bool = False,
        thinking: bool = False,
        explain: Mapping[str, Any] | None = None,
        logprobs: bool = False,
    ):
        """`explain`: what the first `raythink` object tells of the request (None: no such objects at all).

        `thinking`: see ModelCard. `logprobs`: whether to tell those of the chosen candidate.
        """
        self.usage = Usage()
        self._envelope, self._streamed, self._live = envelope, streamed, live and streamed
        self._explain, self._logprobs = explain, logprobs
        self._thinking, self._splitter = thinking, ReplySplitter(thinking)
        self._content, self._finished = "", False
        self._separate = False  # whether reasoning was sent that the next one must stand apart from

    def start(self) -> Iterator[Json]:
        """The chunk that comes before anything happened."""
        told = None if self._explain is None else {"type": "start", **self._explain}
        yield self._envelope.chunk([choice(0, {"role": "assistant", "content": ""})], raythink=told)

    def feed(self, event: Event) -> Iterator[Json]:
        """The chunks of an event; the event itself goes with the first of them, if it is asked for."""
        self._count(event)
        wanted = self._explain is not None and (self._streamed or not isinstance(event, CandidateDelta))
        told = event_json(event) if wanted else None
        deltas = [choice(0, delta) for delta in self._deltas(event)]
        version = None
        if isinstance(event, Selected):
            self._finished = True
            version = f"v{event.version}" if event.version >= 0 else None
            logprobs = logprobs_json(event.logprobs) if self._logprobs else None
            deltas.append(choice(0, {}, event.finish_reason, logprobs))
        if told and not deltas:
            deltas = [choice(0, {})]
        for number, delta in enumerate(deltas):
            yield self._envelope.chunk([delta], raythink=None if number else told, system_fingerprint=version)

    def end(self, include_usage: bool) -> Iterator[Json]:
        """The chunk after the last event. Raises EngineError if nothing was selected: the answer broke off."""
        if not self._finished:
            raise EngineError("the answer broke off")
        if include_usage:
            yield self._envelope.chunk([], usage=usage_json(self.usage))

    def _count(self, event: Event) -> None:
        match event:
            case PlanReady() | Judged():
                self.usage += event.usage
            case CandidateDelta():
                self.usage += Usage(0, event.tokens)
            case Selected():
                self.usage = event.usage

    def _deltas(self, event: Event) -> Iterator[Json]:
        if isinstance(event, Selected):
            yield from self._answer(event)
        elif isinstance(event, CandidateDelta):
            if self._live:
                yield from self._split(self._splitter.feed(event.text))
        elif self._streamed and (line := progress_line(event, self._live)):
            if isinstance(event, CandidateRestarted) and self._live:
                self._begin_anew(event)
                yield self._reasoning("\n")
            self._separate = True
            yield {"reasoning_content": f"{line}\n"}

    def _answer(self, event: Selected) -> Iterator[Json]:
        if self._live:
            yield from self._split(self._splitter.close())
        elif event.reasoning:
            yield self._reasoning(event.reasoning)
        # What was passed on live cannot be taken back: only what is missing at its end is added.
        if event.answer.startswith(self._content) and len(event.answer) > len(self._content):
            yield {"content": event.answer[len(self._content) :]}

    def _begin_anew(self, event: CandidateRestarted) -> None:
        """Raises EngineGone where a part of the answer was passed on already: that cannot be taken back."""
        if self._content:
            raise EngineGone(event.reason)
        self._splitter = ReplySplitter(self._thinking)

    def _split(self, pieces: Iterable[tuple[str, str]]) -> Iterator[Json]:
        for channel, text in pieces:
            if channel == "content":
                self._content += text
                yield {"content": text}
            else:
                yield self._reasoning(text)

    def _reasoning(self, text: str) -> Json:
        apart, self._separate = ("\n" if self._separate else ""), False
        return {"reasoning_content": apart + text}


def progress_line(event: Event, live: bool) -> str:
    """A line for people that says what happened; empty where there is nothing to say."""
    match event:
        case PlanReady(text=text) if text:
            return f"Plan:\n{text}"
        case CandidateDone() if not live:
            return f"Candidate {event.index + 1} is done ({event.tokens} tokens, {event.seconds:.1f} s)."
        case CandidateFailed(state="failed" | "late"):
            return f"Candidate {event.index + 1} {event.state}: {event.reason}."
        case CandidateRestarted():
            return f"Candidate {event.index + 1} begins anew: {event.reason}."
        case Clustered() if not live:
            answers = [answer for answer in event.answers if answer is not None]
            return f"Answers so far: {', '.join(answers)}." if answers and all(len(a) < 80 for a in answers) else ""
        case Judged():
            return "The answers that tie were judged in pairs."
    return ""


class SampleChunks:
    """The chunks of replies that the engine was asked for directly: several choices, with logprobs where wanted.

    `envelope.object` says for which endpoint: "text_completion" gives the raw text, else reasoning is split off.
    """

    def __init__(self, envelope: Envelope, choices: int, thinking: bool = False):
        self.usage = Usage()
        self._envelope, self._choices = envelope, choices
        self._legacy = envelope.object == "text_completion"
        self._splitters = [ReplySplitter(thinking) for _ in range(choices)]
        self._offsets = [0] * choices
        self._counted = [0] * choices
        self._finished: set[int] = set()

    def start(self) -> Iterator[Json]:
        """The chunks that come before any text."""
        if not self._legacy:
            for index in range(self._choices):
                yield self._envelope.chunk([choice(index, {"role": "assistant", "content": ""})])

    def feed(self, index: int, chunk: Chunk) -> Iterator[Json]:
        """The chunks of a piece of choice `index`."""
        self._count(index, chunk)
        if chunk.finish_reason:
            self._finished.add(index)
        version = f"v{chunk.version}" if chunk.version >= 0 else None
        make = self._text if self._legacy else self._chat
        for part in make(index, chunk):
            yield self._envelope.chunk([part], system_fingerprint=version)

    def end(self, include_usage: bool) -> Iterator[Json]:
        """The chunk after the last piece. Raises EngineError if a choice broke off."""
        if len(self._finished) < self._choices:
            raise EngineError("the reply broke off")
        if include_usage:
            yield self._envelope.chunk([], usage=usage_json(self.usage))

    def _count(self, index: int, chunk: Chunk) -> None:
        """The engine's own count at the end takes the place of what was counted on the way."""
        self.usage += Usage(0, chunk.tokens)
        self._counted[index] += chunk.tokens
        if chunk.usage is not None:
            self.usage += Usage(chunk.usage.prompt_tokens, chunk.usage.completion_tokens - self._counted[index])

    def _chat(self, index: int, chunk: Chunk) -> Iterator[Json]:
        splitter = self._splitters[index]
        pieces = list(splitter.feed(chunk.text))
        if chunk.finish_reason:
            pieces += splitter.close()
        names = {"content": "content", "reasoning": "reasoning_content"}
        parts = [choice(index, {names[channel]: text}) for channel, text in pieces]
        if chunk.finish_reason or (chunk.logprobs and not parts):
            parts.append(choice(index, {}, chunk.finish_reason))
        if chunk.logprobs:
            parts[0]["logprobs"] = logprobs_json(chunk.logprobs)
        yield from parts

    def _text(self, index: int, chunk: Chunk) -> Iterator[Json]:
        if not (chunk.text or chunk.finish_reason or chunk.logprobs):
            return
        logprobs = legacy_logprobs_json(chunk.logprobs, self._offsets[index]) if chunk.logprobs else None
        self._offsets[index] += len(chunk.text)
        yield {"index": index, "text": chunk.text, "logprobs": logprobs, "finish_reason": chunk.finish_reason}


def _logprob(value: float) -> float:
    return max(value, LEAST_LOGPROB) if not math.isnan(value) else LEAST_LOGPROB


def _token(text: str, logprob: float) -> Json:
    return {"token": text, "logprob": _logprob(logprob), "bytes": list(text.encode("utf-8", "replace"))}


def logprobs_json(tokens: Iterable[TokenLogprob]) -> Json:
    """OpenAI's logprobs of a chat choice: natural logarithms, of all tokens, those of the reasoning included."""
    return {"content": [_token(t.token, t.logprob) | {"top_logprobs": [_token(*top) for top in t.top]} for t in tokens]}


def legacy_logprobs_json(tokens: Iterable[TokenLogprob], offset: int) -> Json:
    """OpenAI's logprobs of a text completion; `offset` is where the first token begins, in characters."""
    tokens, offsets = list(tokens), []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.token)
    return {
        "tokens": [token.token for token in tokens],
        "token_logprobs": [_logprob(token.logprob) for token in tokens],
        "top_logprobs": [{text: _logprob(value) for text, value in token.top} for token in tokens],
        "text_offset": offsets,
    }
