"""mode=serve, and what `serve run deployments:app` finds: the application of a configuration, started and stopped."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from typing import Any

import click

from actors import watchdog
from conf.checks import check_model_dir, check_port
from conf.errors import UserError
from conf.schema import Config
from deployments import front
from deployments.graph import build, make_plan
from deployments.limits import check_address, load_keys

log = logging.getLogger("raythink.serve")

NAME, POLL_S = "raythink", 0.2


class Mistake(UserError, click.ClickException):
    """A user's mistake as the `serve` command shows one: a line on stderr and exit code 2, no traceback."""

    exit_code = 2


def show_log() -> None:
    """What this package logs goes to stderr, where nobody else has said where logs go (as the `serve` command)."""
    if log.handlers or logging.getLogger().handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)


def application(cfg: Config) -> Any:
    """The Serve Application of a configuration; Ray need not run yet. Raises UserError."""
    _environment()
    if cfg.engine.kind == "vllm" and not cfg.serve.follow:
        check_model_dir(cfg.model.path)
    plan = make_plan(cfg, _cuda(cfg))
    if any(spec.kind == "cerebras" for spec in plan.engines.values()) and not os.environ.get("CEREBRAS_API_KEY"):
        raise UserError("Cerebras needs an API key: export CEREBRAS_API_KEY=...")
    for role, spec in plan.engines.items():
        what = f"{spec.vllm.model_path} (policy version {spec.version})" if spec.vllm else f"{spec.name} {spec.url}"
        log.info("%s: %s, %s", role, spec.kind, what)
    log.info("gateway, planner, verifier and engine start side by side (about half a minute on two cores)")
    return build(cfg, plan)


def run(cfg: Config) -> int:
    """mode=serve: starts a local Ray (or joins ray.address), serves until ctrl-C, and stops what it started."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    check_address(cfg.serve.host, load_keys(os.environ))
    check_port(cfg.serve.host, cfg.serve.port, "serve.port")
    watchdog.start()
    app = application(cfg)
    import ray
    from ray import serve

    options: dict[str, Any] = {"address": cfg.ray.address} if cfg.ray.address else {"include_dashboard": False}
    ray.init(logging_level=logging.ERROR, log_to_driver=False, namespace="raythink", **options)
    try:
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        serve.start(
            http_options={"host": cfg.serve.host, "port": cfg.serve.port}, logging_config={"log_level": "ERROR"}
        )
        target = serve.RunTarget(app, name=NAME, route_prefix="/")
        serve.run_many([target], wait_for_applications_running=False)
        _follow_start(serve)
        url = f"http://{cfg.serve.host}:{cfg.serve.port}"
        log.info("ready: the page at %s, the API at %s/v1 (ctrl-C stops)", url, url)
        _until_interrupted()
        return 130
    finally:
        serve.shutdown()
        ray.shutdown()


def _follow_start(serve: Any) -> None:
    """Log each deployment as it becomes ready, until all are. Raises UserError where the start failed."""
    ready: set[str] = set()
    while True:
        status = serve.status().applications[NAME]
        if status.status == "DEPLOY_FAILED":
            reason = next((d.message for d in status.deployments.values() if d.message), status.message)
            raise UserError(
                f"the service did not start: {reason.strip().splitlines()[-1] if reason else status.status}"
            )
        for name, deployment in status.deployments.items():
            if deployment.status == "HEALTHY" and name not in ready:
                ready.add(name)
                log.info("%s is ready", name)
        if status.status == "RUNNING":
            return
        time.sleep(POLL_S)


def _until_interrupted() -> None:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()


def _environment() -> None:
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # someone waits for the answer
    # the proxy as well: see handles.DIRECT and graph.ONE_LOOP, which reach the replicas whoever starts them
    os.environ.setdefault("RAY_SERVE_USE_GRPC_BY_DEFAULT", "1")
    os.environ.setdefault("RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP", "0")
    if "RAY_SERVE_ENABLE_HA_PROXY" not in os.environ:
        os.environ.update(front.environment())
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _gpus() -> int:
    """GPUs of the cluster where Ray runs already (`serve deploy` builds the application on its head, which may have
    none itself), else of this machine."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        return int(ray.cluster_resources().get("GPU", 0))
    from conf.machine import this_machine

    return len(this_machine().gpu_bytes)


def _cuda(cfg: Config) -> bool:
    """Whether the engine computes on a GPU: as model.device says, and this machine, or the cluster, has."""
    gpus = _gpus()
    if cfg.model.device == "cuda" and not gpus:
        raise UserError("model.device=cuda, but there is no GPU here: use model.device=cpu or auto")
    return cfg.model.device != "cpu" and gpus > 0
