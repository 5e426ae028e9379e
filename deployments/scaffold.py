"""Plan once, solve N times at the same time, compare as answers arrive, stop when the vote is decided, select.

    settings = ScaffoldSettings(effort="medium")
    async with aclosing(scaffold.run(messages, settings)) as events:
        async for event in events: ...

A run is one task that owns all others: closing the iterator, or cancelling whoever consumes it, ends every request
upstream before it returns. What fails here is no answer's fault: a candidate whose engine went away is asked anew, one
whose engine failed is left out, a plan that failed is no plan, a verifier that failed leaves the spelling to compare, a
judge that failed has no opinion. The deadline ends the solving and the best so far is selected. Nothing here knows of
Ray or HTTP.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Protocol

from actors.checkers.compare import by_spelling
from actors.engine.chat import ChatEngine, ChatRequest, EngineGone, Usage
from actors.engine.partial import PartialReply
from actors.messages import Comparison, Plan
from actors.planner import Planned, Planner, pays
from actors.prompts import as_data, with_plan
from actors.selection import Candidate, Decision, State, decide, tournament
from deployments import events
from deployments.conversation import split_conversation
from deployments.effort import EFFORTS, ScaffoldSettings
from deployments.events import Event, Selected, split_reasoning
from deployments.judging import Judge
from deployments.pruning import Sureness, has_examples, kept, window_of
from deployments.siblings import Beside, Piece, Pruning, Siblings

__all__ = ["EFFORTS", "Comparer", "Event", "NoCandidate", "Scaffold", "ScaffoldSettings", "split_reasoning"]

log = logging.getLogger(__name__)

UNNEEDED = "the vote was decided without it"
RESTARTS = 3  # of one candidate whose engine goes away in the middle
PLAN_SHARE = 0.25  # of the deadline: a slow planner leaves the rest to the solvers


class NoCandidate(Exception):
    """Nobody answered. `causes` are the engine's exceptions, one for each candidate."""

    def __init__(self, causes: Sequence[Exception] = ()) -> None:
        reasons = dict.fromkeys(f"{type(cause).__name__}: {cause}" for cause in causes)
        super().__init__(f"no candidate gave an answer: {'; '.join(reasons) or 'none was asked'}")
        self.causes = tuple(causes)


class Comparer(Protocol):
    """What compares answers: actors.verifier.Verifier, or whoever stands for it."""

    async def compare(self, question: str, texts: Sequence[str]) -> Comparison: ...


class Scaffold:
    """Answers questions with these engines. Any number of runs may go on at the same time.

    Without a planner engine the solver plans; without a judge level answers go by confidence, which needs logprobs
    (`logprobs` False: the solver's engine has none to give).
    """

    def __init__(
        self,
        *,
        solver_engine: ChatEngine | Siblings,
        planner_engine: ChatEngine | None = None,
        judge_engine: ChatEngine | None = None,
        planner: Planner | None = None,
        verifier: Comparer | None = None,
        logprobs: bool = True,
    ) -> None:
        self.solvers: Siblings = solver_engine if hasattr(solver_engine, "stream_all") else Beside(solver_engine)
        self.planner_engine = planner_engine or solver_engine
        self.planner = planner or Planner()
        self.judge = Judge(judge_engine) if judge_engine is not None else None
        self.verifier = verifier
        self.logprobs = logprobs

    async def run(
        self, messages: Sequence[Mapping[str, Any]], settings: ScaffoldSettings | None = None
    ) -> AsyncIterator[Event]:
        """Everything that happens, `Selected` last. Raises BadRequest, or NoCandidate if nobody answered in time."""
        run = _Run(self, messages, settings or ScaffoldSettings())
        task = asyncio.create_task(run.go())
        try:
            while (event := await run.events.get()) is not None:
                yield event
            await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


class _Track:
    """One candidate on its way."""

    def __init__(self, index: int, window: int) -> None:
        self.index, self.window = index, window
        self.state: State = "running"
        self.reply = PartialReply()
        self.failure: Exception | None = None
        self.reason = ""
        self.restarts = 0
        self.sureness = Sureness(window)
        self.started = 0.0  # the loop's time


class _Run:
    """One question's way through the scaffold: the state, and the steps that change it."""

    def __init__(self, scaffold: Scaffold, messages: Sequence[Mapping[str, Any]], settings: ScaffoldSettings) -> None:
        self.parts, self.settings = scaffold, settings
        self.history, self.question, self.rest = split_conversation(messages)
        # not bounded: a slow reader must not slow the engines, and max_tokens bounds what can pile up
        self.events: asyncio.Queue[Event | None] = asyncio.Queue()
        self.tracks = [_Track(index, window_of(settings.max_tokens)) for index in range(settings.candidates)]
        self.tasks: list[asyncio.Task[None]] = []
        self.pruned: list[_Track] = []
        self.examples = False
        self.pruning = settings.prune and scaffold.logprobs and len(self.tracks) > 1
        self.changed = asyncio.Event()
        self.plan = Plan("")
        self.compared: dict[int, int] = {}  # candidate to its place in the comparison
        self.comparison: Comparison | None = None
        self.points: dict[int, float] = {}
        self.overhead = Usage()  # planner, judge, and what engines wrote before they went away
        self.solving = True
        self.loop = asyncio.get_running_loop()
        self.deadline = self.loop.time() + settings.deadline_s

    def remaining_s(self) -> float:
        return self.deadline - self.loop.time()

    async def go(self) -> None:
        """All steps; the events end with None, whatever happens."""
        try:
            try:
                async with asyncio.timeout_at(self.deadline) as self.scope:
                    await self.make_plan()
                    await self.solve()
            except TimeoutError:
                if not self.scope.expired():
                    raise
            self.solving = False
            await self.judge()
            self.events.put_nowait(self.selected())
        finally:
            self.events.put_nowait(None)

    # --- plan -----------------------------------------------------------------------------------------------------

    async def make_plan(self) -> None:
        wanted = self.settings.plan
        if wanted is None:
            wanted = self.settings.level.plan and pays(self.question, self.settings.effort)
        if not wanted:
            return
        try:
            planned = await self.parts.planner.plan(
                self.question,
                self.parts.planner_engine,
                history=self.history,
                seed=self.settings.seed,
                timeout_s=PLAN_SHARE * self.settings.deadline_s,
            )
        except Exception as failure:  # a planner of another process may be gone: the question can do without
            planned = Planned(Plan(""), reason=f"the planner failed: {type(failure).__name__}: {failure}"[:300])
        self.plan, self.overhead = planned.plan, self.overhead + planned.usage
        self.events.put_nowait(events.PlanReady(planned.plan.text, planned.plan.steps, planned.usage, planned.reason))

    # --- solve ----------------------------------------------------------------------------------------------------

    async def solve(self) -> None:
        """Run all candidates until the vote is decided; then, or when cancelled, end those that still run."""
        self.examples = has_examples(self.question)
        # where examples decide, a candidate that is less sure may still be the one that passes them
        self.pruning = self.pruning and not self.examples
        self.ask(self.tracks)
        try:
            while not self.decision().decided:
                await self.changed.wait()
                self.changed.clear()
                await self.compare()
        finally:
            for task in self.tasks:
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)
            for track in self.tracks:
                if track.state == "running":
                    late = self.scope.expired()
                    cause = TimeoutError(f"no answer within {self.settings.deadline_s:g} s") if late else None
                    self.drop(track, "late" if late else "cancelled", cause, UNNEEDED)

    def ask(self, tracks: Sequence[_Track]) -> None:
        """Begin candidates, all of one engine."""
        for track in tracks:
            track.started = self.loop.time()
        self.tasks.append(asyncio.create_task(self.read(tracks)))

    async def read(self, tracks: Sequence[_Track]) -> None:
        """Their pieces, to the last one. What the engine raises ends the candidates that it was writing."""
        requests = {track.index: self.request(track.index) for track in tracks}
        ended = {t.index: t.sureness.lowest for t in self.tracks if t.state == "finished"}
        pruning = Pruning(tracks[0].window, kept(len(self.tracks)), ended) if self.pruning else None
        try:
            async with aclosing(self.parts.solvers.stream_all(requests, pruning)) as pieces:
                async for piece in pieces:
                    self.take(self.tracks[piece.index], piece)
        except Exception as failure:
            for track in tracks:
                if track.state == "running":
                    self.failed(track, failure)

    def take(self, track: _Track, piece: Piece) -> None:
        """The next piece of a candidate."""
        if track.state != "running":
            return
        if piece.failure is not None:
            self.failed(track, piece.failure)
        elif piece.stopped:
            self.drop(track, "cancelled", None, "far less sure than another candidate")
            self.pruned.append(track)
            self.revive()
        else:
            chunk, reply = piece.chunk, track.reply
            reply.add(chunk)
            track.sureness.add(token.logprob for token in chunk.logprobs)
            if chunk.text:
                self.events.put_nowait(events.CandidateDelta(track.index, chunk.text, chunk.tokens))
            if chunk.finish_reason:
                self.finished(track)
        self.changed.set()

    def finished(self, track: _Track) -> None:
        track.state, reply = "finished", track.reply
        answer, seconds = split_reasoning(reply.text)[1], self.loop.time() - track.started
        done = events.CandidateDone(
            track.index, answer, reply.finish_reason or "", reply.tokens, seconds, reply.confidence
        )
        self.events.put_nowait(done)

    def failed(self, track: _Track, failure: Exception) -> None:
        """Ask anew where only the engine's process went away; else this candidate is over."""
        self.changed.set()
        if isinstance(failure, EngineGone) and track.restarts < RESTARTS and self.remaining_s() > 0:
            track.restarts += 1
            self.anew(track, str(failure)[:300])
            return
        self.drop(track, "late" if isinstance(failure, TimeoutError) else "failed", failure)
        self.revive()

    def revive(self) -> None:
        """Ask anew the surest of those that were stopped, where the ones that they were stopped for have failed."""
        if self.pruned and not any(t.state in ("running", "finished") for t in self.tracks):
            track = max(self.pruned, key=lambda t: t.sureness.lowest)
            self.pruned.remove(track)
            track.state, track.reason = "running", ""
            self.anew(track, "the candidates that it was stopped for have failed")

    def anew(self, track: _Track, reason: str) -> None:
        """Begin a candidate again: what it wrote is forgotten, but for its tokens."""
        tokens, self.overhead = track.reply.tokens, self.overhead + track.reply.usage
        track.reply, track.sureness = PartialReply(), Sureness(track.window)
        self.events.put_nowait(events.CandidateRestarted(track.index, reason, tokens))
        self.ask([track])

    def request(self, index: int) -> ChatRequest:
        """Candidate `index`'s request: the conversation with the plan in its last question."""
        s = self.settings
        text = with_plan(self.question, self.plan.text) if self.plan.text else as_data(self.question)
        wants_logprobs = self.parts.logprobs and len(self.tracks) > 1
        return ChatRequest(
            messages=(*self.history, {"role": "user", "content": text}, *self.rest),
            max_tokens=s.max_tokens,
            temperature=s.temperature,
            top_p=s.top_p,
            stop=s.stop,
            seed=None if s.seed is None else s.seed + index,
            top_logprobs=0 if s.top_logprobs is None and wants_logprobs else s.top_logprobs,
            response_format=s.response_format,
            timeout_s=max(self.remaining_s(), 1e-3),
            live=s.live,
        )

    def drop(self, track: _Track, state: State, failure: Exception | None, reason: str = "") -> None:
        """A candidate that will not come to its end, for this reason or because of a failure."""
        track.state, track.failure = state, failure
        track.reason = f"{type(failure).__name__}: {failure}"[:300] if failure else reason
        self.events.put_nowait(events.CandidateFailed(track.index, state, track.reason, track.reply.tokens))

    # --- compare, judge, select -----------------------------------------------------------------------------------

    async def compare(self) -> None:
        """Compare what has finished; a single candidate needs no comparison, nor does what was compared already."""
        done = [track for track in self.tracks if track.state == "finished"]
        if len(self.tracks) == 1 or len(done) == len(self.compared):
            return
        texts = [track.reply.text for track in done]
        error = "" if self.parts.verifier else "there is no verifier"
        comparison = None
        alone = len(done) == 1 and not self.examples  # nothing to be compared with, nothing to be tried
        if self.parts.verifier is not None and not alone:
            try:
                comparison = await self.parts.verifier.compare(self.question, texts)
            except Exception as failure:  # a service that failed says nothing about the answers
                error = f"{type(failure).__name__}: {failure}"[:300]
                log.warning("comparison failed: %s", error)
        self.learn(done, comparison or by_spelling(texts), error)

    def learn(self, done: Sequence[_Track], comparison: Comparison, error: str) -> None:
        self.comparison, self.compared = comparison, {track.index: place for place, track in enumerate(done)}
        c = comparison
        self.events.put_nowait(
            events.Clustered(tuple(self.compared), c.answers, c.clusters, c.passed, c.reasons, error)
        )

    def known(self, track: _Track) -> Candidate:
        """The candidate as the vote sees it: one that waits for its comparison counts as running."""
        reply, place = track.reply, self.compared.get(track.index)
        waiting = self.solving and track.state == "finished" and place is None and len(self.tracks) > 1
        return Candidate(
            track.index,
            "running" if waiting else track.state,
            -1 if place is None else self.comparison.clusters[place],
            None if place is None else self.comparison.passed[place],
            reply.confidence,
            reply.finish_reason == "stop" and bool(reply.text.strip()),
        )

    def decision(self) -> Decision:
        return decide(map(self.known, self.tracks), stop_at=self.settings.level.stop_at, points=self.points)

    async def judge(self) -> None:
        """Let the judge choose between level answers, if there is time."""
        done = [track for track in self.tracks if track.state == "finished"]
        if len(done) > 1 and len(self.compared) < 2:  # the deadline came before the first comparison
            self.learn(done, by_spelling([track.reply.text for track in done]), "the deadline came first")
        tied, judge = self.decision().tied, self.parts.judge
        if judge is None or len(tied) < 2 or self.remaining_s() <= 0:
            return
        answers = {index: _shown(self.tracks[index].reply.text) for index in tied}
        opinions, usage = await judge.settle(self.question, answers, self.remaining_s())
        self.points, self.overhead = tournament(opinions), self.overhead + usage
        self.events.put_nowait(events.Judged(opinions, tuple(sorted(self.points.items())), usage))

    def selected(self) -> Selected:
        """The winner. Raises NoCandidate."""
        decision = self.decision()
        if decision.leader is None:
            raise NoCandidate([track.failure for track in self.tracks if track.failure is not None])
        reply = self.tracks[decision.leader].reply
        reasoning, answer = split_reasoning(reply.text)
        return Selected(
            index=decision.leader,
            text=reply.text,
            reasoning=reasoning,
            answer=answer,
            why=decision.why,
            finish_reason=reply.finish_reason or "",
            usage=self.usage(),
            candidates=tuple(map(self.summary, self.tracks)),
            version=reply.version,
            logprobs=tuple(reply.logprobs),
        )

    def usage(self) -> Usage:
        """All tokens. The candidates' prompts are alike: one that broke off is counted with another's prompt."""
        replies = [track.reply for track in self.tracks]
        prompt = max(reply.usage.prompt_tokens for reply in replies)
        costs = [reply.usage for reply in replies if reply.tokens or reply.finish_reason]
        return sum((Usage(cost.prompt_tokens or prompt, cost.completion_tokens) for cost in costs), self.overhead)

    def summary(self, track: _Track) -> events.CandidateSummary:
        place = self.compared.get(track.index)
        answer = None if place is None else self.comparison.answers[place]
        reason = track.reason if place is None else self.comparison.reasons[place]
        known = self.known(track)
        return events.CandidateSummary(
            track.index,
            track.state,
            answer,
            known.cluster,
            known.passed,
            known.confidence,
            track.reply.tokens,
            reason,
        )


def _shown(text: str) -> str:
    """What a judge sees of a candidate: its answer; where it has none, how it ends."""
    return split_reasoning(text)[1] or text[-2000:]
