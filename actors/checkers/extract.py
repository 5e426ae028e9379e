"""Where in a completion its final answer stands.

Every checker looks only at the part after the thinking. A tag, box or fence that never closes is no answer: a
completion cut off by the token limit must not be rewarded for what it happened to have written so far.
All scans are linear in the length of the text, so a hostile completion cannot make them slow.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"

_BOX_TOKEN = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])|\\.|[{}]", re.DOTALL)
_UNBRACED_BOX = re.compile(r"\s*([^\s{}$\\]+)")
_FENCE = re.compile(
    r"^[ \t]*(?P<mark>`{3,}|~{3,})[ \t]*(?P<language>[^\s`]*)[^\n]*$|(?<=[^`\n])(?P<end>`{3,})[ \t]*$", re.MULTILINE
)


class NoAnswer(Exception):
    """The completion holds no final answer; the message says why. Checkers turn it into `incorrect`."""


@dataclass(frozen=True)
class Box:
    """A complete `\\boxed{...}` at [start, end) of `source`; sliced on demand, so nested boxes cost no memory."""

    source: str
    start: int
    end: int
    content_start: int
    content_end: int

    @property
    def content(self) -> str:
        return self.source[self.content_start : self.content_end].strip()


@dataclass(frozen=True)
class Fence:
    """A complete fenced block: its language (lower case, may be empty) and its lines."""

    language: str
    content: str


def final_part(text: str) -> str:
    """The text after the last `</think>`, or all of it where there was no thinking.

    Raises NoAnswer if a `<think>` was never closed.
    """
    close = text.rfind(THINK_CLOSE)
    if text.find(THINK_OPEN, close + 1) >= 0:
        raise NoAnswer("no answer: thinking never ended")
    return text[close + len(THINK_CLOSE) :] if close >= 0 else text


def answer_tag(part: str) -> str | None:
    """The stripped content of the last (innermost) `<answer>...</answer>`; None without one.

    Raises NoAnswer if the last `<answer>` was never closed.
    """
    opened = part.rfind(ANSWER_OPEN)
    if opened < 0:
        return None
    start = opened + len(ANSWER_OPEN)
    close = part.find(ANSWER_CLOSE, start)
    if close < 0:
        raise NoAnswer("no answer: <answer> never closed")
    return part[start:close].strip()


def boxes(part: str) -> list[Box]:
    """All complete boxes in the order in which they open, by brace matching; `\\boxed 7` counts as `\\boxed{7}`.

    Raises NoAnswer if a box was never closed.
    """
    found: list[Box] = []
    stack: list[tuple[int, int]] = []  # (start of the box or -1 for a plain brace, start of the content)
    pending: tuple[int, int] | None = None  # a \boxed whose brace must follow: (start, end of the command)
    for token in _BOX_TOKEN.finditer(part):
        if pending is not None:
            start, end = pending
            pending = None
            if token.group() == "{" and not part[end : token.start()].strip():
                stack.append((start, token.end()))
                continue
            found.extend(_unbraced(part, start, end))
        if token.group() in ("\\boxed", "\\fbox"):
            pending = (token.start(), token.end())
        elif token.group() == "{":
            stack.append((-1, token.end()))
        elif token.group() == "}" and stack:
            start, content = stack.pop()
            if start >= 0:
                found.append(Box(part, start, token.end(), content, token.start()))
    if pending is not None:
        found.extend(_unbraced(part, *pending))
    if any(start >= 0 for start, _ in stack):
        raise NoAnswer("no answer: \\boxed{ never closed")
    return sorted(found, key=lambda box: box.start)


def _unbraced(part: str, start: int, end: int) -> list[Box]:
    """`\\boxed 7`: the run of characters after the command, without the sentence's punctuation."""
    run = _UNBRACED_BOX.match(part, end)
    if run is None:
        return []
    content_end = run.start(1) + len(run.group(1).rstrip(".,;:"))
    return [Box(part, start, content_end, run.start(1), content_end)]


def fences(part: str) -> list[Fence]:
    """All complete fenced blocks, in order; a fence may close at the end of the last line. An open one is left out."""
    found: list[Fence] = []
    opening: re.Match[str] | None = None
    for mark in _FENCE.finditer(part):
        if opening is None:
            opening = mark if mark["mark"] else None
        elif (mark["mark"] or mark["end"])[0] == opening["mark"][0] and not mark["language"]:
            content = part[opening.end() + 1 : mark.start()]
            found.append(Fence(opening["language"].lower(), content.removesuffix("\n")))
            opening = None
    return found


def final_answer(text: str, *, bare_limit: int = 0) -> str:
    """The final answer: the last `<answer>`, else the last box, else (up to `bare_limit` characters) the part itself.

    A box inside the `<answer>` is unwrapped. Raises NoAnswer where there is none.
    """
    part = final_part(text)
    tagged = answer_tag(part)
    scope = part if tagged is None else tagged
    found = boxes(scope)
    if found:
        return found[-1].content
    if tagged:
        return tagged
    bare = part.strip()
    if tagged is None and bare and len(bare) <= bare_limit:
        return bare
    raise NoAnswer("no answer: neither <answer> nor \\boxed{}" if tagged is None else "no answer: <answer> is empty")


def code_block(text: str) -> str:
    """The Python program of a completion: the last closed Python (else untagged) fence, else bare code in `<answer>`.

    Raises NoAnswer where there is none.
    """
    part = final_part(text)
    tagged = answer_tag(part)
    blocks = fences(part if tagged is None else tagged)
    for wanted in (("python", "python3", "py"), ("",)):
        matching = [block.content for block in blocks if block.language in wanted]
        if matching:
            return matching[-1]
    if tagged and "```" not in tagged:
        return tagged
    raise NoAnswer("no answer: no complete code block")
