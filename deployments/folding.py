"""The chunks of a reply put together: what a client gets that did not ask for a stream. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Json = dict[str, Any]

OBJECTS = {"chat.completion.chunk": "chat.completion", "text_completion": "text_completion"}


def fold(chunks: Iterable[Json]) -> Json:
    """The whole reply. There is at least one chunk; choices come in the order of their indices."""
    reply: Json = {}
    choices: dict[int, Json] = {}
    events: list[Json] = []
    for chunk in chunks:
        for part in chunk["choices"]:
            _add(choices.setdefault(part["index"], _empty(part)), part)
        if "raythink" in chunk:
            events.append(chunk["raythink"])
        reply |= {name: value for name, value in chunk.items() if name not in ("choices", "raythink")}
    reply["object"] = OBJECTS[reply["object"]]
    reply["choices"] = [choices[index] for index in sorted(choices)]
    if events:
        reply["raythink"] = explanation(events)
    return reply


def explanation(events: Iterable[Json]) -> Json:
    """How an answer came about: the request's effort, plan, candidates with their verdicts, winner and why."""
    start, plan, votes, judged, selected, texts = {}, None, None, None, {}, {}
    for event in events:
        content = {name: value for name, value in event.items() if name != "type"}
        match event["type"]:
            case "start":
                start = content
            case "plan":
                plan = content
            case "candidate":
                texts[event["index"]] = content
            case "votes":
                votes = content
            case "judged":
                judged = content
            case "selected":
                selected = content
    candidates = [texts.get(summary["index"], {}) | _verdict(summary) for summary in selected.get("candidates", [])]
    return start | {
        "plan": plan,
        "candidates": candidates,
        "votes": votes,
        "judged": judged,
        "winner": selected.get("index"),
        "why": selected.get("why"),
        "version": selected.get("version"),
    }


def _verdict(summary: Json) -> Json:
    """A candidate's summary, with its answer as the verifier read it under a name of its own."""
    return {("final" if name == "answer" else name): value for name, value in summary.items()}


def _empty(part: Json) -> Json:
    if "text" in part:
        return {"index": part["index"], "text": "", "logprobs": None, "finish_reason": None}
    message = {"role": "assistant", "content": "", "reasoning_content": None, "refusal": None}
    return {"index": part["index"], "message": message, "logprobs": None, "finish_reason": None}


def _add(choice: Json, part: Json) -> None:
    if "text" in part:
        choice["text"] += part["text"]
    else:
        message, delta = choice["message"], part["delta"]
        message["content"] += delta.get("content", "")
        if "reasoning_content" in delta:
            message["reasoning_content"] = (message["reasoning_content"] or "") + delta["reasoning_content"]
    choice["finish_reason"] = part["finish_reason"] or choice["finish_reason"]
    if part["logprobs"]:
        logprobs = choice["logprobs"] = choice["logprobs"] or {name: [] for name in part["logprobs"]}
        for name, values in part["logprobs"].items():
            logprobs[name] = logprobs[name] + values
