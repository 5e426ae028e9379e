"""The Serve application: gateway, planner, verifier and engines as deployments that scale and fail on their own.

gateway ── planner ── engine (of the planner)
   ├────── verifier
   └────── engine (of the solver), judge
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors import watchdog
from actors.engine.chat import ChatRequest, Chunk
from actors.engine.speculative import speculative_config
from actors.engine.vllm import VllmSettings, environment
from conf.errors import UserError
from conf.schema import Config
from deployments.backend import AnswerRequest, ModelCard
from deployments.events import Event
from deployments.follow import newest
from deployments.handles import HandleComparer, HandleEngine, HandlePlanner
from deployments.limits import KEYS_FILE_VARIABLE, KEYS_VARIABLE
from deployments.services import EngineService, EngineSpec, PlannerService, VerifierService

STARTER = "assets/starter"
VARIABLES = ("CEREBRAS_API_KEY", "CEREBRAS_BASE_URL", "OPENAI_API_KEY")  # what the engines read where they run
MAX_ONGOING = 1000  # the gateway's admission is the limit
COMPARE_S = 60.0
REMOTE_TOKENS = 8192  # of a candidate where the context is not known: reasoning is long
# a replica's requests in its main loop: nothing here blocks it, and each thread between costs milliseconds a message
ONE_LOOP = {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0", "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0"}
# of what the gateway asks: its own access log has a line a request, ten more would hide it
INNER = {"logging_config": {"enable_access_log": False}}


@dataclass(frozen=True)
class Plan:
    """What to deploy: engines by role ("solver" always; "planner", "judge" where they are others)."""

    engines: Mapping[str, EngineSpec]
    context: int | None
    created: int


def make_plan(cfg: Config, cuda: bool) -> Plan:
    """The engines that a configuration asks for, with the weights that are there now. Raises UserError."""
    engines = {"solver": _solver(cfg, cuda)}
    for role, text in (("planner", cfg.serve.planner), ("judge", cfg.serve.judge)):
        if text:
            engines[role] = _remote(text, f"serve.{role}")
    context = cfg.engine.max_model_len if cfg.engine.kind == "vllm" else None
    return Plan(engines, context, int(time.time()))


def _solver(cfg: Config, cuda: bool) -> EngineSpec:
    e = cfg.engine
    if e.kind != "vllm":
        if e.kind == "openai" and not e.url:
            raise UserError("engine.kind=openai needs engine.url: the base URL of the server, as http://HOST:PORT/v1")
        return EngineSpec(e.kind, cfg.model.path, e.url)
    speculative_config(e.speculative)  # raises here, before anything starts
    if e.speculative == "suffix" and importlib.util.find_spec("arctic_inference") is None:
        raise UserError("engine.speculative=suffix needs a package more: run `make suffix`, or use "
                        "engine.speculative=ngram")
    folder, version = _policy(cfg)
    settings = VllmSettings(
        model_path=folder,
        device="cuda" if cuda else "cpu",
        dtype=cfg.model.dtype,
        threads=e.threads,
        tensor_parallel=e.tensor_parallel,
        max_model_len=e.max_model_len,
        max_num_seqs=e.max_num_seqs,
        max_batched_tokens=e.max_batched_tokens,
        kv_cache_gib=e.kv_cache_gib,
        gpu_memory=e.gpu_memory,
        enforce_eager=e.enforce_eager,
        seed=cfg.seed,
        speculative=e.speculative,
        # on CPU, vLLM's seeds of requests fail where a prompt is computed in pieces
        chunked_prefill=cuda,
        log_stats=bool(e.speculative),
    )
    return EngineSpec("vllm", "raythink", vllm=settings, version=version, follow=_absolute(cfg.serve.follow))


def _policy(cfg: Config) -> tuple[str, int]:
    """The folder to serve and its version: of serve.follow, of model.path, or of the newest run where that is the
    embedded starter, which a run on this machine has improved."""
    if cfg.serve.follow:
        found = newest(Path(cfg.serve.follow))
        if found is None and not Path(cfg.serve.follow).is_dir():
            raise UserError(f"serve.follow={cfg.serve.follow} is no run folder: give one, as serve.follow=runs/latest")
    else:
        found = newest(Path(cfg.run.dir) / "latest") if cfg.model.path == STARTER else None
    return (str(found.folder), found.version) if found else (_absolute(cfg.model.path), 0)


def _absolute(path: str) -> str:
    """Of a path that exists here: replicas have another working folder. A hub name stays what it is."""
    return os.path.abspath(path) if path and Path(path).exists() else path


def _remote(text: str, key: str) -> EngineSpec:
    """`URL#MODEL` or `cerebras#MODEL`."""
    where, _, model = text.rpartition("#")
    if not model or not (where == "cerebras" or re.match(r"https?://", where)):
        raise UserError(f"{key}={text} names no engine: write {key}=http://HOST:PORT/v1#MODEL or {key}=cerebras#MODEL")
    return EngineSpec("cerebras", model) if where == "cerebras" else EngineSpec("openai", model, where)


class ServeBackend:
    """The gateway's Backend over Serve's handles (see deployments.backend)."""

    def __init__(self, plan: Plan, engines: Mapping[str, HandleEngine], planner: HandlePlanner, comparer: Any):
        from deployments.scaffold import Scaffold

        self.plan, self.engines, self.planner, self.comparer = plan, engines, planner, comparer
        solver = plan.engines["solver"]
        self.cards = [ModelCard(solver.name, plan.created, context=plan.context)]
        self.scaffold = Scaffold(
            solver_engine=engines["solver"],
            planner_engine=engines.get("planner"),
            judge_engine=engines.get("judge"),
            planner=planner,
            verifier=comparer,
            logprobs=solver.kind == "vllm",
        )

    async def models(self) -> Sequence[ModelCard]:
        return self.cards

    async def answer(self, request: AnswerRequest) -> AsyncIterator[Event]:
        async with aclosing(self.scaffold.run(request.messages, request.settings)) as events:
            async for event in events:
                yield event

    async def complete(self, model: str, request: ChatRequest) -> AsyncIterator[Chunk]:
        async with aclosing(self.engines["solver"].stream(request)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def health(self) -> None:
        await self.engines["solver"].health()

    async def metrics(self) -> str:
        """Every service's counters as `raythink_<service>_<counter>`."""
        services = {**self.engines, "planner_service": self.planner, "verifier": self.comparer}
        found = await asyncio.gather(*(s.stats() for s in services.values()), return_exceptions=True)
        lines = [
            f"raythink_{service}_{re.sub(r'[^A-Za-z0-9_]', '_', name)} {float(value):g}"
            for service, counters in zip(services, found, strict=True)
            if isinstance(counters, Mapping)
            for name, value in counters.items()
        ]
        return "\n".join([*lines, ""])


def gateway_settings(cfg: Config, context: int | None) -> Any:
    """GatewaySettings of a configuration; `context` is the solver's, in tokens (None: not known). Raises UserError."""
    from deployments.gateway import GatewaySettings
    from deployments.jobs import ReplySettings
    from deployments.limits import LimitSettings, load_keys

    s = cfg.serve
    limits = LimitSettings(
        requests_per_minute=s.requests_per_minute,
        concurrent_per_key=s.concurrent,
        capacity=s.capacity,
        max_waiting=max(s.capacity // 2, 1),
    )
    longest = context or ReplySettings.max_tokens
    default = s.max_tokens or (context // 2 if context else REMOTE_TOKENS)
    replies = ReplySettings(min(default, longest), longest, timeout_s=s.deadline_s, prune=s.prune)
    return GatewaySettings(keys=load_keys(os.environ), limits=limits, replies=replies)


def build(cfg: Config, plan: Plan) -> Any:
    """The Serve Application. Importing this module does not import Ray; calling this does."""
    from ray import serve

    engine = serve.deployment(_EngineReplica)
    handles = {}
    for role, spec in plan.engines.items():
        options = _engine_options(cfg, spec)
        handles[role] = engine.options(name=f"{role}-engine", **options).bind(spec)
    v = cfg.verifier
    verifier = _service(serve, _VerifierReplica, "verifier", v.count).bind(
        v.workers, v.timeout_s, v.retries, cfg.sandbox.allow_weaker, {**v.options, "limits": v.domain_limits}
    )
    planner_engine = plan.engines.get("planner") or plan.engines["solver"]
    planner = _service(serve, _PlannerReplica, "planner").bind(
        planner_engine.name, handles.get("planner") or handles["solver"]
    )
    keys = {name: os.environ[name] for name in (KEYS_VARIABLE, KEYS_FILE_VARIABLE) if name in os.environ}
    gateway = serve.deployment(serve.ingress()(_Gateway)).options(
        name="gateway",
        max_ongoing_requests=MAX_ONGOING,
        ray_actor_options={"num_cpus": 0, "runtime_env": _runtime(keys)},
    )
    return gateway.bind(plan, cfg, planner, verifier, handles)


def _service(serve: Any, service: type, name: str, count: int = 1) -> Any:
    actor = {"num_cpus": 0, "runtime_env": _runtime({"OMP_NUM_THREADS": "1"})}
    return serve.deployment(service).options(
        name=name, num_replicas=count, max_ongoing_requests=MAX_ONGOING, ray_actor_options=actor, **INNER
    )


def _engine_options(cfg: Config, spec: EngineSpec) -> dict[str, Any]:
    variables = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    actor: dict[str, Any] = {"num_cpus": 0}
    if spec.vllm is not None:
        variables |= environment(spec.vllm)
        if spec.vllm.device == "cuda":
            actor |= {"num_gpus": spec.vllm.tensor_parallel, "num_cpus": 1}
    return {
        "num_replicas": cfg.engine.count if spec.vllm is not None else 1,
        "max_ongoing_requests": MAX_ONGOING,
        "health_check_period_s": 2,
        "graceful_shutdown_timeout_s": 5,
        **INNER,
        "ray_actor_options": {**actor, "runtime_env": _runtime(variables)},
    }


def _runtime(variables: Mapping[str, str]) -> dict[str, Any]:
    root = str(Path(__file__).resolve().parent.parent)
    path = os.environ.get("PYTHONPATH", "")
    paths = [root, *(p for p in path.split(os.pathsep) if p and p != root)]
    # what a killed replica leaves goes with the service, where mode=serve has a watchdog for that
    scratch = {"TMPDIR": os.environ[watchdog.MARK]} if watchdog.MARK in os.environ else {}
    return {"env_vars": {"PYTHONPATH": os.pathsep.join(paths), **ONE_LOOP, **scratch, **variables}}


class _EngineReplica(EngineService):
    """EngineService, started by Serve: an asynchronous constructor is over when requests may come."""

    async def __init__(self, spec: EngineSpec):
        EngineService.__init__(self, spec)
        await self.start()


class _VerifierReplica(VerifierService):
    """VerifierService, started by Serve: its checker process is there before the first answers are."""

    async def __init__(self, *settings: Any):
        VerifierService.__init__(self, *settings)
        await self.start()


class _PlannerReplica(PlannerService):
    def __init__(self, name: str, engine: Any):
        super().__init__(HandleEngine(name, engine))


class _Gateway:
    """The HTTP replica: FastAPI over the other deployments' handles."""

    def __init__(self, plan: Plan, cfg: Config, planner: Any, verifier: Any, engines: Mapping[str, Any]):
        self._cfg = cfg
        named = {role: HandleEngine(plan.engines[role].name, handle) for role, handle in engines.items()}
        self._backend = ServeBackend(
            plan, named, HandlePlanner(planner, COMPARE_S), HandleComparer(verifier, COMPARE_S)
        )

    def __serve_build_asgi_app__(self) -> Any:
        from deployments.gateway import create_app

        return create_app(self._backend, gateway_settings(self._cfg, self._backend.plan.context))
