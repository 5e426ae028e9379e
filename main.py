"""The one entry: python main.py mode=sft|train|eval|verify|prepare|serve|pipeline [recipe=NAME] [key=value ...]

`--help` lists modes, recipes and keys; `--dry-run` shows the configuration and the actors it needs.
Exit codes: 0 done, 1 a bug (with its traceback), 2 a mistake in what was asked (one line), 130 interrupted.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence

from conf.errors import UserError

# Imported only when chosen: torch, Ray and vLLM take seconds that no typing mistake should have to wait for.
MODE_MODULES = {
    "train": "rl.trainer",
    "sft": "rl.sft",
    "eval": "rl.evaluation",
    "verify": "actors.verify_files",
    "prepare": "rl.prepare",
    "serve": "deployments.command",
    "pipeline": "rl.pipeline",
}
PACKAGES = ("omegaconf", "yaml", "numpy", "torch", "transformers", "ray", "vllm", "pyarrow", "rich", "psutil")


def run(argv: Sequence[str]) -> int:
    """Does what `argv` asks and returns the exit code; raises UserError for what cannot be done."""
    flags = [word for word in argv if word in ("--help", "-h", "help", "--dry-run")]
    if not argv or any(flag != "--dry-run" for flag in flags):
        from conf.help import help_text

        return _show(help_text())

    from conf.load import load

    cfg = load([word for word in argv if word != "--dry-run"])
    if cfg.mode not in MODE_MODULES:
        raise UserError(f"mode={cfg.mode} is not in this version yet: use one of "
                        f"{', '.join('mode=' + mode for mode in MODE_MODULES)}")
    return _show(_dry_run(cfg)) if flags else importlib.import_module(MODE_MODULES[cfg.mode]).run(cfg)


def main(argv: Sequence[str] | None = None) -> int:
    """`run`, with mistakes as one line on stderr."""
    try:
        return run(sys.argv[1:] if argv is None else argv)
    except UserError as e:
        return _fail(str(e))
    except ModuleNotFoundError as e:
        package = (e.name or "").partition(".")[0]
        if package not in PACKAGES or importlib.util.find_spec(package) is not None:
            raise  # a wrong import of ours is a bug
        return _fail(f"the package {package} is not installed for {sys.executable}: "
                     "start raythink with its own Python, .venv/bin/python main.py")
    except KeyboardInterrupt:
        return 130


def _dry_run(cfg) -> str:
    from conf.load import to_yaml
    from conf.machine import this_machine
    from conf.plan import format_plan, resource_plan
    from conf.scale_report import cluster_plan

    if cfg.ray.gpus and cfg.mode == "train":
        return f"{to_yaml(cfg)}\n{cluster_plan(cfg)}"
    machine = this_machine()
    has = (machine.cpus, len(machine.gpu_bytes), machine.memory_bytes, min(machine.gpu_bytes, default=0))
    if cfg.mode != "pipeline":
        return f"{to_yaml(cfg)}\n{format_plan(cfg, resource_plan(cfg, *has), *has)}"
    from rl.pipeline import stage_configs

    plans = [f"stage {name}\n{format_plan(c, resource_plan(c, *has), *has)}" for name, c in stage_configs(cfg).items()]
    return "\n\n".join([to_yaml(cfg), *plans])


def _show(text: str) -> int:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # `| head` has read enough; nothing may be left to flush at exit
        sys.stdout = None  # type: ignore[assignment]
    return 0


def _fail(message: str) -> int:
    print(f"raythink: error: {' '.join(message.split())}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
