"""The frames between a verifier and its checker processes: four bytes of length, then JSON."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, BinaryIO

from actors.messages import Comparison, Problem, Verdict

HEADER = struct.Struct(">I")
MAX_FRAME = 256 << 20  # bytes


class BadFrame(Exception):
    """Bytes that are no frame: the process at the other end is no checker (any more)."""


def pack(message: Mapping[str, Any]) -> bytes:
    """One frame. Lone surrogates and non-finite numbers survive JSON's escapes."""
    body = json.dumps(message).encode()
    return HEADER.pack(len(body)) + body


def length(header: bytes) -> int:
    """The length that a header announces. Raises BadFrame."""
    (size,) = HEADER.unpack(header)
    if size > MAX_FRAME:
        raise BadFrame(f"frame of {size} bytes")
    return size


def read(stream: BinaryIO) -> dict[str, Any] | None:
    """The next message of a blocking stream, or None at its end."""
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    return json.loads(stream.read(length(header)))


def request(problem: Problem, text: str, timeout_s: float) -> dict[str, Any]:
    """The message that asks for a verdict; what checkers need of a problem, in JSON types."""
    return {
        "timeout_s": timeout_s,
        "text": text,
        "problem": {
            "id": problem.id,
            "messages": [dict(message) for message in problem.messages],
            "data_source": problem.data_source,
            "domain": problem.domain,
            "ground_truth": problem.ground_truth,
            "extra_info": _jsonable(problem.extra_info),
        },
    }


def problem_of(message: Mapping[str, Any]) -> Problem:
    fields = dict(message["problem"])
    fields["messages"] = tuple(fields["messages"])
    return Problem(**fields)


def verdict_of(message: Mapping[str, Any]) -> Verdict:
    return Verdict(**message)


def compare_request(question: str, texts: Sequence[str], timeout_s: float) -> dict[str, Any]:
    """The message that asks which of `texts` answer a question alike."""
    return {"op": "compare", "timeout_s": timeout_s, "question": question, "texts": list(texts)}


def comparison_of(message: Mapping[str, Any]) -> Comparison:
    return Comparison(**{name: tuple(values) for name, values in message.items()})


def message_of(answer: Verdict | Comparison) -> dict[str, Any]:
    return asdict(answer)


def _jsonable(value: Any) -> Any:
    """extra_info may come out of parquet with arrays and numpy scalars."""
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    if hasattr(value, "tolist"):
        return _jsonable(value.tolist())
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
