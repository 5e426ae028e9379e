"""What the gateway needs of whoever answers: a protocol without HTTP, so that Ray Serve, one process or a test is one.

Cancelling whoever iterates, or closing the iterator, must stop all work upstream before that returns.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from actors.engine.chat import ChatRequest, Chunk
from deployments.effort import ScaffoldSettings
from deployments.events import Event


@dataclass(frozen=True)
class ModelCard:
    """A model on offer. `created`: seconds since 1970. `context`: prompt and reply in tokens, None if not known.

    `thinking`: the chat template ends in an opened `<think>`, so that a reply begins as reasoning.
    """

    id: str
    created: int
    owned_by: str = "raythink"
    context: int | None = None
    thinking: bool = False


@dataclass(frozen=True)
class AnswerRequest:
    """A question for the scaffold: chat messages ({"role", "content"}), the user's last one being the question."""

    model: str
    messages: tuple[Mapping[str, Any], ...]
    settings: ScaffoldSettings


class Backend(Protocol):
    """Answers requests; any number at the same time.

    `answer` and `complete` raise what `Scaffold.run` and `ChatEngine.stream` do: BadRequest, EngineBusy, EngineError,
    TimeoutError, NoCandidate.
    """

    async def models(self) -> Sequence[ModelCard]:
        """The models on offer, the default one first. Cheap: asked for with every request."""

    def answer(self, request: AnswerRequest) -> AsyncIterator[Event]:
        """Plan, candidates, vote: everything that happens, Selected last."""

    def complete(self, model: str, request: ChatRequest) -> AsyncIterator[Chunk]:
        """One reply of the model as it is, without the scaffold."""

    async def health(self) -> None:
        """Return if requests can be answered; raises EngineError, with the reason, if not."""

    async def metrics(self) -> str:
        """What the backend counts, in Prometheus's text format (empty if nothing)."""
