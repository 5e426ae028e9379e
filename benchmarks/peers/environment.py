"""A peer's own virtual environment: TRL breaks verl's imports, and optillm would bring forty packages into ours.

    python -m benchmarks.peers.environment [trl | optillm | lm-eval | schemathesis ...]

Invariants: one folder beside `.venv` for each peer; a finished environment is told from a torn one by a stamp that is
written last and holds the pins; a second call with the same pins installs nothing; torch is always the CPU build.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from conf.errors import UserError

TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
TORCH_PIN = "torch==2.13.0"
_STAMP = "pins.txt"


@dataclass(frozen=True)
class Install:
    """One call of pip: what to install, and pip's own options for it."""

    pins: tuple[str, ...]
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Environment:
    """What an environment holds: pip's calls in their order, and a program that must run once they are done."""

    peer: str
    folder: str
    installs: tuple[Install, ...]
    check: str

    @property
    def stamp(self) -> str:
        """The pins, one a line, each once."""
        pins = dict.fromkeys(pin for install in self.installs for pin in install.pins)
        return "\n".join(pins) + "\n"

    def python(self, root: Path) -> Path:
        """Its interpreter under the repository root, whether or not it exists yet."""
        return root / self.folder / "bin" / "python"

    def is_ready(self, root: Path) -> bool:
        """True if it was finished with exactly today's pins."""
        stamp = root / self.folder / _STAMP
        return stamp.is_file() and stamp.read_text() == self.stamp and self.python(root).exists()

    def ensure(self, root: Path) -> Path:
        """Make it under `root` if it is absent, torn or of other pins; return its interpreter.

        Raises UserError if pip fails or if the finished environment does not pass its check.
        """
        python = self.python(root)
        if self.is_ready(root):
            return python
        folder = root / self.folder
        print(f"making {folder} ({self.peer}'s own environment, once, minutes)", file=sys.stderr, flush=True)
        if not python.exists():
            venv.EnvBuilder(with_pip=True, symlinks=True).create(folder)
        for install in self.installs:
            self._run(python, "-m", "pip", "install", "--quiet", *install.pins, *install.options)
        self._run(python, "-c", self.check)
        (folder / _STAMP).write_text(self.stamp)
        return python

    def _run(self, python: Path, *arguments: str) -> None:
        """Run the environment's interpreter; its last words go into the error, all of them to stderr."""
        done = subprocess.run([str(python), *arguments], stdout=sys.stderr, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            sys.stderr.write(done.stderr)
            last_line = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise UserError(
                f"{self.peer}'s environment could not be made ({last_line}): remove {python.parents[1]} and run the "
                f"command again."
            )


TRL = Environment(
    "TRL",
    ".venv-trl",
    (
        # torch first and from the CPU index: the next resolve then finds it installed and never fetches the CUDA build
        Install((TORCH_PIN,), ("--index-url", TORCH_CPU_INDEX, "--retries", "1")),
        # the same transformers, accelerate and numpy as ours, so that both sides of the benchmark run the same kernels
        Install(
            (
                TORCH_PIN,
                "trl==1.16.0",
                "transformers==5.10.4",
                "datasets==5.2.0",
                "accelerate==1.15.0",
                "numpy==2.3.5",
                # what the rewards import: both sides judge with the same checkers, in the same jail
                "math-verify==0.9.0",
                "pyseccomp==0.1.2",
            )
        ),
    ),
    "from trl import GRPOTrainer; import torch; assert torch.version.cuda is None, torch.__version__",
)

OPTILLM = Environment(
    "optillm",
    ".venv-optillm",
    (
        # without its forty requirements (torch, gradio, spacy, ...): the proxy and `bon` import only those below
        Install(("optillm==0.4.0",), ("--no-deps",)),
        Install(
            (
                "aiohttp==3.14.5",
                "cerebras_cloud_sdk==1.91.0",
                "flask==3.1.3",
                "httpx==0.28.1",
                "math-verify==0.9.0",
                "networkx==3.6.1",
                "numpy==2.3.5",
                "openai==3.54.0",
                "PyYAML==6.0.3",
                "sympy==1.14.0",
                "z3-solver==4.15.4.0",
            )
        ),
    ),
    "from optillm.server import main; from optillm.bon import best_of_n_sampling",
)


LM_EVAL = Environment(
    "lm-eval",
    ".venv-lm-eval",
    (
        Install(
            (
                "lm_eval==0.4.13",
                # what its API models import
                "aiohttp==3.14.5",
                "requests==2.34.2",
                "tenacity==9.2.1",
                "tqdm==4.70.1",
            )
        ),
    ),
    "import lm_eval.models.openai_completions",
)

SCHEMATHESIS = Environment(
    "schemathesis", ".venv-schemathesis", (Install(("schemathesis==4.32.5",)),), "import schemathesis"
)

PEERS = {"trl": TRL, "optillm": OPTILLM, "lm-eval": LM_EVAL, "schemathesis": SCHEMATHESIS}


def ensure_trl_env(root: Path) -> Path:
    """TRL's interpreter (see Environment.ensure)."""
    return TRL.ensure(root)


def main(words: Sequence[str]) -> None:
    """Make the environments of these peers (TRL's without any), and print their interpreters."""
    for name in words or ("trl",):
        if name not in PEERS:
            sys.exit(f"raythink: error: {name} is no peer: use {', '.join(PEERS)}")
        print(PEERS[name].ensure(Path(__file__).resolve().parents[2]))


if __name__ == "__main__":
    main(sys.argv[1:])
