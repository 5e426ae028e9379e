"""OpenAI's protocol, both ways: a ChatRequest as call parameters, the events of a streamed reply as Chunks. Pure.

Cerebras speaks the same protocol and adds `time_info`. Servers that split a reply into `reasoning_content` (DeepSeek,
older vLLM) or `reasoning` (Cerebras, newer vLLM) and `content` get it joined again, the thinking in `<think>` tags, as
the model wrote it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from actors.engine.chat import BadRequest, ChatRequest, Chunk, TokenLogprob, Usage

REASONING_FIELDS = ("reasoning_content", "reasoning")
TIMES = ("queue_time", "prompt_time", "completion_time", "total_time")


class Malformed(ValueError):
    """An event that is none of this protocol's."""


class Incomplete(Exception):
    """The events ended before the reply did, or it ended in a way that is no answer."""


@contextmanager
def _shape() -> Iterator[None]:
    """What reading an answer of the wrong shape trips over, as Malformed."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as failure:
        raise Malformed(f"{type(failure).__name__}: {failure}") from failure


def model_names(page: Any) -> list[str]:
    """The names in a list of models (`/v1/models`). Raises Malformed."""
    with _shape():
        return [str(model["id"]) for model in page.get("data") or ()]


def parameters(request: ChatRequest) -> dict[str, Any]:
    """The call's parameters but for the model and the length limit, whose name differs. Raises BadRequest."""
    if (request.prompt is None) == (not request.messages):
        raise BadRequest("a request needs either messages or a prompt")
    common: dict[str, Any] = {
        "temperature": request.temperature,
        "top_p": request.top_p,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if request.stop:
        common["stop"] = list(request.stop)
    if request.seed is not None:
        common["seed"] = request.seed
    if request.prompt is not None:
        return common | _of_completion(request)
    return common | _of_chat(request)


def _of_chat(request: ChatRequest) -> dict[str, Any]:
    own: dict[str, Any] = {"messages": [dict(message) for message in request.messages]}
    if request.top_logprobs is not None:
        own |= {"logprobs": True, "top_logprobs": request.top_logprobs}
    if request.response_format is not None:
        own["response_format"] = dict(request.response_format)
    return own


def _of_completion(request: ChatRequest) -> dict[str, Any]:
    if request.response_format is not None:
        raise BadRequest("response_format needs messages: /v1/completions knows none")
    own: dict[str, Any] = {"prompt": request.prompt}
    return own if request.top_logprobs is None else own | {"logprobs": request.top_logprobs}


class ReplyReader:
    """The events of one reply, in their order, as Chunks: `read` each, then ask for the `last`."""

    def __init__(self) -> None:
        self._tokens = 0
        self._thinking = False
        self._finish_reason: str | None = None
        self._usage: Usage | None = None
        self._timing: dict[str, float] = {}

    def read(self, event: Any) -> Chunk | None:
        """The chunk that an event stands for, None where it brings no text. Raises Malformed."""
        with _shape():
            return self._read(event)

    def _read(self, event: Mapping[str, Any]) -> Chunk | None:
        if usage := event.get("usage"):
            self._usage = Usage(int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0))
        if times := event.get("time_info"):
            self._timing = {name: float(times[name]) for name in TIMES if times.get(name) is not None}
        if not event.get("choices"):
            return None
        choice = event["choices"][0]
        delta = choice.get("delta") or {}
        text = self._text(delta, choice)
        self._finish_reason = choice.get("finish_reason") or self._finish_reason
        logprobs = _logprobs(choice)
        if not text and not logprobs:
            return None
        ids = delta.get("tokens") or choice.get("tokens") or ()
        tokens = len(logprobs) or len(ids) or 1
        self._tokens += tokens
        return Chunk(text, tokens, logprobs)

    def _text(self, delta: Mapping[str, Any], choice: Mapping[str, Any]) -> str:
        reasoning = next((delta[name] for name in REASONING_FIELDS if delta.get(name)), "")
        content = delta.get("content") or choice.get("text") or ""
        parts = []
        if reasoning:
            parts += [reasoning] if self._thinking else ["<think>", reasoning]
            self._thinking = True
        if content:
            parts += ["</think>", content] if self._thinking else [content]
            self._thinking = False
        return "".join(parts)

    def last(self) -> Chunk:
        """The chunk that ends the reply. Raises Incomplete.

        Thinking that the length limit cut off stays open, as it would in the model's own text. Where the server did
        not say how many tokens it used, the chunks' are counted and the prompt's are 0.
        """
        if self._finish_reason not in ("stop", "length"):
            reason = f" but for {self._finish_reason!r}" if self._finish_reason else ""
            raise Incomplete(f"the reply ended without a finish reason{reason}")
        closing = "</think>" if self._thinking and self._finish_reason == "stop" else ""
        counted = Usage(0, self._tokens)
        return Chunk(closing, 0, (), self._finish_reason, self._usage or counted, timing=self._timing)


def _logprobs(choice: Mapping[str, Any]) -> tuple[TokenLogprob, ...]:
    """Of chat (`content` lists, Cerebras's thinking apart) or of plain completions (parallel lists)."""
    found = []
    for part in (choice.get("reasoning_logprobs"), choice.get("logprobs")):
        for token in (part or {}).get("content") or ():
            top = tuple((other["token"], float(other["logprob"])) for other in token.get("top_logprobs") or ())
            found.append(TokenLogprob(token["token"], float(token["logprob"]), top))
    plain = choice.get("logprobs") or {}
    tokens = plain.get("tokens") or ()
    alternatives = plain.get("top_logprobs") or [None] * len(tokens)
    for token, logprob, others in zip(tokens, plain.get("token_logprobs") or (), alternatives, strict=True):
        top = tuple((name, float(value)) for name, value in (others or {}).items())
        found.append(TokenLogprob(token, float(logprob), top))
    return tuple(found)
