"""Reasoning and answer told apart while a reply arrives: events.split_reasoning, for a text that is not there yet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from actors.checkers.extract import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE, THINK_OPEN

Channel = Literal["reasoning", "content"]

_IN_REASONING = (THINK_CLOSE, THINK_OPEN)
_IN_CONTENT = (THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE)


class ReplySplitter:
    """Give it a reply piece by piece; it says what belongs to the reasoning and what to the answer, without tags.

    White space around either is dropped, and what may become a tag is held back until it is known not to. `thinking`:
    whether the reply begins as reasoning, because the prompt has opened `<think>` already.
    """

    def __init__(self, thinking: bool = False):
        self._thinking = thinking
        self._rest = ""
        self._space: dict[Channel, str | None] = {"reasoning": None, "content": None}  # None: nothing was said yet

    def feed(self, text: str) -> Iterator[tuple[Channel, str]]:
        """The pieces that are certain now, in order; none is empty."""
        self._rest += text
        while found := self._first_tag():
            at, tag = found
            yield from self._say(self._rest[:at])
            self._rest = self._rest[at + len(tag) :]
            self._thinking = tag == THINK_OPEN or (self._thinking and tag != THINK_CLOSE)
        held = self._possible_tag()
        certain, self._rest = self._rest[: len(self._rest) - held], self._rest[len(self._rest) - held :]
        yield from self._say(certain)

    def close(self) -> Iterator[tuple[Channel, str]]:
        """What was held back, at the end of the reply."""
        rest, self._rest = self._rest, ""
        yield from self._say(rest)

    def _tags(self) -> tuple[str, ...]:
        return _IN_REASONING if self._thinking else _IN_CONTENT

    def _first_tag(self) -> tuple[int, str] | None:
        found = [(at, tag) for tag in self._tags() if (at := self._rest.find(tag)) >= 0]
        return min(found, default=None)

    def _possible_tag(self) -> int:
        """The length of the longest end of the text that begins a tag."""
        longest = max(map(len, self._tags())) - 1
        lengths = range(min(longest, len(self._rest)), 0, -1)
        return next((n for n in lengths if any(tag.startswith(self._rest[-n:]) for tag in self._tags())), 0)

    def _say(self, text: str) -> Iterator[tuple[Channel, str]]:
        channel: Channel = "reasoning" if self._thinking else "content"
        space = self._space[channel]
        if not text.strip():
            if space is not None:
                self._space[channel] = space + text
            return
        said = text.rstrip()
        self._space[channel] = text[len(said) :]
        yield channel, said.lstrip() if space is None else space + said
