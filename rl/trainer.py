"""The loop of mode=train: collect groups, learn from them, publish the weights, again. See the design's data flow.

With rl.staleness=0 the engines wait while the learner learns, and a run is exact: seeds follow from (seed, step, round,
engine), groups are ordered by id before they are learnt from, and each wave starts with empty caches. A resumed run
repeats the steps after its checkpoint bit by bit, and one whose engine died has its lost groups again.

With S > 0 groups stream while the learner learns (rl.stream): the schedule differs, the parts are the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from actors.engine import Sampling
from actors.messages import TokenBatch
from conf.schema import Config
from rl.batch import filter_reason, rollout_metrics, sequences
from rl.cluster import Cluster
from rl.crew import Crew
from rl.dispatcher import Collected, Dispatcher, ServiceFailure
from rl.ledger import Ledger
from rl.objective import ObjectiveSettings, policy_loss
from rl.packing import token_batch
from rl.publication import within
from rl.source import Source
from rl.stream import Stream

ROW_TOKENS = 260  # completions behind one copy of their prompt; beyond it attention costs more than copies save


class Trainer:
    """One run's policy: `step()` makes it one step better. Owns the counters, not the actors."""

    def __init__(self, cfg: Config, cluster: Cluster, source: Source, sampling: Sampling | None = None):
        self.cfg, self.cluster, self.source = cfg, cluster, source
        self.crew = Crew(cfg, cluster)
        self.ledger = Ledger(cfg.rl.groups, cfg.rl.staleness)
        self.completed, self.version = 0, 0
        s = cfg.sampling
        self.sampling = sampling or Sampling(s.temperature, s.top_p, -1, s.max_tokens)
        settings = ObjectiveSettings(
            loss=cfg.rl.loss,
            aggregation="seq-mean-token-sum-norm" if cfg.rl.advantage == "dr_grpo" else cfg.rl.aggregation,
            clip_low=cfg.rl.clip_low,
            clip_high=cfg.rl.clip_high,
            tis_cap=cfg.rl.tis_cap,
            kl_coef=cfg.rl.kl_coef,
            horizon=s.max_tokens,
        )
        self._loss = partial(policy_loss, settings)
        self._first = source.state_dict()
        self.stream = self._stream() if cfg.rl.staleness else None
        self._dispatcher = self.stream or self._waves()

    def _common(self) -> dict[str, Any]:
        cfg = self.cfg
        return {
            "group_size": cfg.rl.group_size,
            "sampling": self.sampling,
            "seed": cfg.seed,
            "timeout_s": cfg.engine.timeout_s,
            "keep": lambda group: filter_reason(group, cfg.rl, cfg.sampling.max_tokens),
        }

    def _waves(self) -> Dispatcher:
        cluster, rounds = self.cluster, self.cfg.rl.refill_rounds
        return Dispatcher(self.source, self.ledger, cluster.rollouts, cluster.verifiers, refill_rounds=rounds,
                          keepers=self.crew.keepers, **self._common())

    def _stream(self) -> Stream:
        rl, keepers = self.cfg.rl, self.crew.keepers
        return Stream(self.source, self.ledger, keepers.engines, keepers.judge, sequences=self.cfg.engine.max_num_seqs,
                      total_steps=rl.steps, refill=rl.refill_rounds > 0, wait=rl.stragglers == "wait",
                      planning=keepers.planning, **self._common())

    async def step(self, progress: Callable[[int, int], None] = lambda done, total: None) -> dict[str, Any]:
        """Collect, learn, publish; returns the step's metrics (names of the design).

        Raises ServiceFailure; as ActorsLost where learners are lost, after which only `go_back` makes sense.
        """
        self.crew.open()
        if self.stream is None:
            await self.crew.settle()
        started, before = time.perf_counter(), dict(self.ledger.counts)
        step = self.completed + 1
        collected = await self._dispatcher.collect(step, self.version, progress)
        metrics = rollout_metrics(collected.seen or collected.groups, collected.groups, self.version)
        self._refuse_errors(metrics["verdict/error_rate"])
        metrics |= self.source.record(collected.seen)
        learnt, learn_s = await self._learn(collected)
        sync_s = 0.0
        if learnt:
            sync_s = await self._publish()
        self.completed = step
        total = time.perf_counter() - started
        spent = {"generate": collected.generate_s, "verify": collected.verify_s, "learn": learn_s, "sync": sync_s}
        idle = collected.waited_s if self.stream else max(0.0, total - sum(spent.values()))
        metrics |= learnt | {f"groups/{name}": n - before[name] for name, n in self.ledger.counts.items()}
        metrics |= {f"time/{name}": seconds for name, seconds in spent.items()}
        metrics |= {
            "time/step": total,
            "time/idle": idle,
            "tokens/per_s": metrics["tokens/generated"] / total,
            "policy_version": self.version,
            "rounds": collected.rounds,
        }
        return {"step": step, **metrics}

    async def _publish(self) -> float:
        """Make what was learnt the current policy; on-policy, wait until all engines hold it. Returns seconds."""
        started = time.perf_counter()
        await self.crew.publish(self.version + 1)
        self.version += 1
        if self.stream is None:
            await self.crew.settle()
        return time.perf_counter() - started

    async def _learn(self, collected: Collected) -> tuple[dict[str, float], float]:
        """rl.updates_per_step optimizer steps on the groups; ({}, 0) where no group carries a signal."""
        started, cfg = time.perf_counter(), self.cfg
        rows = sequences(collected.groups, cfg.rl, cfg.sampling.max_tokens)
        if not rows:
            return {}, 0.0
        parts = min(cfg.rl.updates_per_step, len(rows))
        if parts > 1:  # the ratio is to the policy before the first update, so its logprobs are taken now
            await self._add_logprobs(rows, "old_logprobs")
        if cfg.rl.kl_coef:
            await self._add_logprobs(rows, "reference_logprobs", True)
        results = []
        for part in range(parts):
            results.append(await self._update(rows[part::parts]))
        mean = {name: float(np.mean([r[name] for r in results])) for name in results[0]}
        return mean, time.perf_counter() - started

    async def _update(self, rows: list[dict[str, np.ndarray]]) -> dict[str, float]:
        """One optimizer step. Sequences without an advantage count in the loss's denominator, and are not computed:
        their gradient is exactly zero. The averages of logprobs are over the tokens that were."""
        import ray

        learners = self.cluster.learners
        batch = self._batch(self.computes(rows) or rows)
        counts = {"tokens": float(sum(row["mask"].sum() for row in rows)), "sequences": float(len(rows))}
        reference = ray.put(batch)
        calls = [learner.update.remote(reference, self._loss, counts) for learner in learners]
        names = [f"learner-{i}" for i in range(len(calls))]
        sums = (await within(calls, names, self.cfg.engine.timeout_s, "take an optimizer step"))[0]
        tokens = batch.mask_tokens
        return {
            "loss/policy": sums["loss"],
            "policy/entropy": sums["entropy"] / tokens,
            "policy/mismatch_kl": sums["mismatch_kl"] / tokens,
            "policy/clip_fraction": sums["clip_fraction"] / tokens,
            "policy/tis_truncated": sums.get("tis_truncated", 0.0) / tokens,
            **({"policy/reference_kl": sums["reference_kl"] / tokens} if self.cfg.rl.kl_coef else {}),
            "policy/grad_norm": sums["grad_norm"],
            "lr": sums["lr"],
            "tokens/learnt": counts["tokens"],
        }

    async def _add_logprobs(self, rows: list[dict[str, np.ndarray]], field: str, reference: bool = False) -> None:
        """The policy's logprobs of every row into `field`; `reference`: those of the first policy."""
        import ray

        batch = ray.put(self._batch(rows))
        calls = [learner.logprobs.remote(batch, reference) for learner in self.cluster.learners]
        names = [f"learner-{i}" for i in range(len(calls))]
        for share in await within(calls, names, self.cfg.engine.timeout_s, "compute logprobs"):
            for index, values in share.items():
                rows[index][field] = values * rows[index]["mask"]

    def computes(self, rows: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
        """The rows that can have a gradient: those with an advantage, or all where there is a KL term."""
        return rows if self.cfg.rl.kl_coef else [row for row in rows if row["advantages"].any()]

    def _batch(self, rows: list[dict[str, np.ndarray]]) -> TokenBatch:
        """Cut for the learners; prompts are shared where the engine pads (a packed batch is verl's own layout)."""
        c = self.cfg.learner
        shared = not c.remove_padding and self.cfg.model.attn != "flash_attention_2"  # which takes no mask of ours
        return token_batch(rows, c.micro_tokens, c.world_size // c.ulysses, ROW_TOKENS if shared else 0)

    def _refuse_errors(self, rate: float) -> None:
        limit = self.cfg.verifier.max_error_rate
        if rate > limit:
            raise ServiceFailure(
                f"verifiers failed on {rate:.0%} of a step's completions, more than "
                f"verifier.max_error_rate={limit:.0%}: mend the verifier or raise the limit"
            )

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps besides the learner's own state, as JSON; `in_flight` goes with it."""
        return {"version": self.version, "source": self.source.state_dict(), "ledger": self.ledger.state_dict()}

    def in_flight(self) -> dict[str, Any] | None:
        """The groups that are not at an end (None where there are none by design): take it with `state_dict`."""
        return self.stream.in_flight() if self.stream else None

    async def go_back(self, step: int, state: dict[str, Any] | None, in_flight: dict[str, Any] | None = None) -> None:
        """To what `state_dict` said after `step`, or to the start; the learners hold its weights already."""
        if self.stream:
            await self.stream.reset()
        in_flight = in_flight or {"ready": [], "running": {}}
        state = state or {"version": 0, "source": self._first, "ledger": Ledger(1).state_dict()}
        self.completed, self.version = step, state["version"]
        self.source.load_state_dict(state["source"])
        self.ledger.load_state_dict(state["ledger"], in_flight["ready"], self.version)
        if self.stream:
            self.stream.restore(in_flight["running"])
        self.crew.open()
        await self.crew.publish(self.version, anew=True)
        await self.crew.settle()

    async def close(self) -> None:
        """Stop what runs beside the steps."""
        if self.stream:
            await self.stream.reset()
        await self.crew.close()


def run(cfg: Config) -> int:
    """mode=train: see rl.session."""
    from rl.session import run_training

    return run_training(cfg)
