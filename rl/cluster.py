"""Starting Ray and the named actors of a run, and stopping them again.

Actors are named `raythink/rollout-0`, `verifier-0`, `learner-0`, ... in one Ray namespace, and say what they are in
their repr, so that Ray's dashboard tells at a glance who does what.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actors import watchdog
from actors.fleet_pool import managed
from conf.checks import check_port
from conf.errors import UserError
from conf.plan import gpu_share, uses_gpu
from conf.schema import Config

REPOSITORY = Path(__file__).resolve().parent.parent
NAMESPACE = "raythink"
START_ATTEMPTS = 3
SPREAD_BYTES = 1 << 20


@dataclass
class Cluster:
    """The handles of a run's actors. `dashboard` is its URL, or "" where it is off."""

    dashboard: str
    rollouts: list[Any] = field(default_factory=list)
    verifiers: list[Any] = field(default_factory=list)
    learners: list[Any] = field(default_factory=list)
    weaker_sandbox: dict[str, str] = field(default_factory=dict)  # layer of the jail missing here: why
    owns_ray: bool = True

    async def statuses(self) -> list[dict[str, Any]]:
        return list(await asyncio.gather(*(a.status.remote() for a in self.rollouts + self.verifiers + self.learners)))

    def stop(self) -> None:
        """End the actors, and Ray itself where we started it."""
        import ray
        from ray.exceptions import GetTimeoutError, RayError

        try:  # checker processes remove their folders only when they are asked to
            ray.get([verifier.close.remote() for verifier in self.verifiers], timeout=5)
        except (GetTimeoutError, RayError) as error:
            logging.getLogger(__name__).warning("verifiers did not close: %s", error)
        for actor in self.rollouts + self.verifiers + self.learners:
            ray.kill(actor, no_restart=True)
        ray.shutdown()


def start_ray(cfg: Config) -> Cluster:
    """Start a local Ray, or join the one at ray.address. UserError where neither can be done."""
    quiet_environment()
    import ray

    if ray.is_initialized():
        raise UserError("this process is connected to a Ray cluster already: stop that one first")
    watchdog.start()
    common = {"namespace": NAMESPACE, "logging_level": logging.ERROR, "log_to_driver": False}
    if cfg.ray.address:
        _check_reachable(cfg.ray.address)
        try:
            context = ray.init(address=cfg.ray.address, **common)
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"ray.address={cfg.ray.address} cannot be joined ({reason}): start a cluster there with "
                            "`ray start --head`, or leave ray.address empty to start one here") from error
        _refuse_taken_names(cfg)
        return Cluster(f"http://{context.dashboard_url}" if context.dashboard_url else "", owns_ray=False)
    if cfg.ray.dashboard:
        check_port(cfg.ray.dashboard_host, cfg.ray.dashboard_port)
    options = {
        "num_cpus": cfg.ray.num_cpus or None,
        "include_dashboard": cfg.ray.dashboard,
        "dashboard_host": cfg.ray.dashboard_host,
        "dashboard_port": cfg.ray.dashboard_port,
    }
    context = _init_patiently({**options, **common})
    return Cluster(f"http://{context.dashboard_url}" if context.dashboard_url else "")


def _init_patiently(options: dict[str, Any]) -> Any:
    """`ray.init`, again where a busy machine did not bring the node up within Ray's own fixed 30 seconds."""
    import ray

    for attempt in range(START_ATTEMPTS):
        try:
            return ray.init(**options)
        except Exception as error:  # Ray raises a plain Exception for this
            if "timed out during startup" not in str(error) or attempt == START_ATTEMPTS - 1:
                raise
            ray.shutdown()
    raise AssertionError("unreachable: the last attempt returns or raises")


def _check_reachable(address: str) -> None:
    """UserError where nothing listens at host:port: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not (host and port.isdigit()):  # "auto", or a ray:// URL: Ray knows where to look
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise UserError(
            f"ray.address={address} cannot be joined ({error}): start a cluster there with `ray start --head`, "
            "or leave ray.address empty to start one here"
        ) from error


def quiet_environment() -> None:
    """What Ray and the libraries in its workers read once, at start."""
    os.environ["RAY_ADDRESS"] = ""  # a stray variable must not make a laptop's run join a cluster
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # loopback only; a cluster brings its own setting
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # the actors are the job: nothing here is more urgent
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    path = os.environ.get("PYTHONPATH", "")
    if str(REPOSITORY) not in path.split(os.pathsep):
        os.environ["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), *([path] if path else [])])


def _refuse_taken_names(cfg: Config) -> None:
    import ray.util

    taken = {a["name"] for a in ray.util.list_named_actors(all_namespaces=True) if a["namespace"] == NAMESPACE}
    if taken:
        raise UserError(f"another raythink run uses this Ray cluster (actor {sorted(taken)[0]}): wait for it, "
                        "or stop it, or leave ray.address empty to start a cluster of your own")


def device(cfg: Config) -> str:
    """"cuda" or "cpu", as model.device and the cluster's GPUs say."""
    import ray

    gpus = int(ray.cluster_resources().get("GPU", 0))
    if cfg.model.device == "cuda" and not gpus:
        raise UserError("model.device=cuda, but Ray sees no GPU: use model.device=cpu or auto")
    if cfg.ray.gpus > gpus:
        raise UserError(f"ray.gpus={cfg.ray.gpus}, but Ray sees {gpus}: join the whole cluster by ray.address, "
                        "or lower ray.gpus (--dry-run tells what fits)")
    return "cuda" if uses_gpu(cfg, gpus) else "cpu"


def _options(name: str, cpus: float, gpus: float, env: dict[str, str] | None = None) -> dict[str, Any]:
    """An actor without GPUs asks for a little memory, which is always there: Ray spreads over the nodes only actors
    that ask for something, others fall where they may."""
    variables = {"PYTHONPATH": os.environ["PYTHONPATH"], "TMPDIR": watchdog.start(), **(env or {})}
    return {
        "name": name,
        "namespace": NAMESPACE,
        "num_cpus": cpus,
        "num_gpus": gpus,
        "runtime_env": {"env_vars": variables},
        **({} if gpus else {"memory": SPREAD_BYTES, "scheduling_strategy": "SPREAD"}),
    }


def create_rollouts(cfg: Config, cluster: Cluster, model_path: str) -> None:
    import ray

    from actors.engine.vllm import VllmSettings, environment
    from actors.rollout import Rollout

    e, where = cfg.engine, device(cfg)
    settings = VllmSettings(
        model_path=str(model_path),
        device=where,
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
    )
    gpus = _gpus_each(cfg, where) * e.tensor_parallel
    for i in range(e.count):
        name = f"rollout-{i}"
        options = _options(name, 0 if where == "cpu" else 1, gpus, environment(settings))
        options |= {"max_concurrency": 1000, "max_restarts": -1}
        actor = ray.remote(Rollout).options(**options).remote(name, settings)
        cluster.rollouts.append(actor)


def create_verifiers(cfg: Config, cluster: Cluster) -> None:
    """Raises WeakerSandbox, a UserError, where model-written code cannot be jailed and that is not allowed."""
    import ray

    from actors.sandbox.backends import Sandbox
    from actors.verifier import Verifier

    sandbox = Sandbox(cfg.sandbox.allow_weaker)
    cluster.weaker_sandbox = dict(sandbox.missing)
    sandbox.close()
    v = cfg.verifier
    for i in range(v.count):
        name = f"verifier-{i}"
        options = _options(name, 0, 0, {"OMP_NUM_THREADS": "1"})
        options |= {"max_concurrency": 1000, "max_restarts": -1}
        actor = ray.remote(managed(Verifier)).options(**options)
        weaker = cfg.sandbox.allow_weaker
        limits = v.domain_limits
        made = actor.remote(name, v.workers, v.timeout_s, v.retries, weaker, limits=limits, **v.options)
        cluster.verifiers.append(made)


def create_learners(cfg: Config, cluster: Cluster, model_path: str, total_steps: int) -> None:
    import ray

    from actors.learner import CONCURRENCY, Learner
    from actors.verl_engine import EngineSettings

    c, where = cfg.learner, device(cfg)
    settings = EngineSettings(
        model_path=str(model_path),
        device=where,
        dtype=cfg.model.dtype,
        attn=cfg.model.attn,
        lr=c.lr,
        warmup_steps=c.warmup_steps,
        total_steps=total_steps,
        schedule=c.schedule,
        min_lr_ratio=c.min_lr_ratio,
        weight_decay=c.weight_decay,
        betas=tuple(c.betas),
        clip_grad=c.clip_grad or float("inf"),
        remove_padding=c.remove_padding,
        gradient_checkpointing=c.gradient_checkpointing,
        offload=c.offload,
        temperature=cfg.sampling.temperature if cfg.mode == "train" else 1.0,
        entropy=cfg.rl.entropy and cfg.mode == "train",
        lora_rank=cfg.model.lora_rank,
        lora_alpha=cfg.model.lora_alpha,
        ulysses=c.ulysses,
        reference=cfg.mode == "train" and cfg.rl.kl_coef > 0,
    )
    env = {"OMP_NUM_THREADS": str(c.threads)}
    if os.path.isdir(model_path):
        env["HF_HUB_OFFLINE"] = "1"
    for rank in range(c.world_size):
        name = f"learner-{rank}"
        options = _options(name, 0 if where == "cpu" else 1, _gpus_each(cfg, where), env)
        options["max_restarts"] = -1
        remote = ray.remote(concurrency_groups=CONCURRENCY)(Learner)
        actor = remote.options(**options).remote(name, rank, c.world_size, settings, c.threads)
        cluster.learners.append(actor)


def _gpus_each(cfg: Config, where: str) -> float:
    import ray

    return gpu_share(cfg, int(ray.cluster_resources().get("GPU", 0))) if where == "cuda" else 0.0


async def start_actors(cfg: Config, cluster: Cluster, note=lambda text: None) -> None:
    """Bring all created actors up, side by side. UserError, naming the actor, where one does not come up."""
    for layer, reason in cluster.weaker_sandbox.items():
        note(f"the sandbox has no {layer} here ({reason}); sandbox.allow_weaker=true lets it run all the same")
    pending: dict[asyncio.Task, str] = {}
    for i, actor in enumerate(cluster.rollouts):
        pending[asyncio.create_task(_wait(actor.start.remote()))] = f"rollout-{i}"
    if cluster.learners:
        address, port = await cluster.learners[0].rendezvous.remote()
        for rank, actor in enumerate(cluster.learners):
            pending[asyncio.create_task(_wait(actor.start.remote(address, port)))] = f"learner-{rank}"
    for i, actor in enumerate(cluster.verifiers):
        pending[asyncio.create_task(_wait(actor.status.remote()))] = f"verifier-{i}"
    try:
        deadline = cfg.engine.timeout_s
        while pending:
            done, _ = await asyncio.wait(pending, timeout=deadline, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                raise UserError(f"{', '.join(sorted(pending.values()))} did not start within {deadline} s: "
                                "see Ray's logs, or raise engine.timeout_s")
            for task in done:
                name = pending.pop(task)
                task.result()
                note(f"{name} is ready")
    finally:
        for task in pending:
            task.cancel()


async def _wait(reference: Any) -> Any:
    return await reference


async def check_storage(learners: Sequence[Any], folder: Path) -> None:
    """UserError where a learner does not see the run's folder: it would save into one of its own node's, unnoticed."""
    seen = await asyncio.gather(*(_wait(learner.sees.remote(str(folder))) for learner in learners))
    blind = [f"learner-{rank}" for rank, sees in enumerate(seen) if not sees]
    if blind:
        raise UserError(f"{', '.join(blind)}: no {folder} on that node of the cluster; give a run.dir on storage that "
                        "all nodes share")


async def restart_rollout(actor: Any, kill: bool) -> None:
    """Ray brings the process back by itself, empty; `kill` ends one that lives and does not work."""
    await _reborn(actor, kill)
    await actor.start.remote()


async def restart_verifier(actor: Any, kill: bool) -> None:
    await _reborn(actor, kill)


async def restart_learners(learners: Sequence[Any], timeout_s: float) -> None:
    """All ranks, as those that live hang in a collective. They are at the first weights then. Raises TimeoutError."""
    import ray

    async with asyncio.timeout(timeout_s):
        for learner in learners:
            ray.kill(learner, no_restart=False)
        await asyncio.gather(*(_reborn(learner, False) for learner in learners))
        address, port = await learners[0].rendezvous.remote()
        await asyncio.gather(*(_wait(learner.start.remote(address, port)) for learner in learners))


async def _reborn(actor: Any, kill: bool) -> None:
    """Until a new process of the actor answers (of a verifier, which holds nothing: any).

    One that was cut off for a moment was taken for dead, and the signal to end may not have reached it: it is killed
    as often as it answers, since whoever starts an actor twice has two engines in one process.
    """
    import ray
    from ray.exceptions import RayActorError

    if kill:
        ray.kill(actor, no_restart=False)
    while True:
        await asyncio.sleep(0.5)  # also until a killed process has ended: it must not be the one that answers
        try:
            status = await _wait(actor.status.remote())
        except RayActorError:
            continue
        if status.get("state", "starting") == "starting":
            return
        ray.kill(actor, no_restart=False)
