"""Checks of what lies outside the configuration: folders and ports. Called by the modes before Ray starts, so that a
mistake costs a second and not a minute of start-up."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import tempfile
from pathlib import Path

from conf.errors import UserError

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
LOCAL_ROOTS = ("assets", "runs")  # "assets/starter" has the shape of a hub name and is none
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
WEIGHT_FILES = ("*.safetensors", "pytorch_model*.bin")


def check_model_dir(path: str, key: str = "model.path", chat: bool = True) -> None:
    """Checks that `path` is a model folder that loads, or a hub name that can be fetched.

    `key` names the setting in messages; `chat=False` lets a tokenizer without a chat template through.

    Raises:
        UserError: the folder, its config.json, weights, tokenizer or chat template is missing or broken, or `path`
            is a hub name while HF_HUB_OFFLINE is set and nothing of it is cached.
    """
    folder = Path(path).expanduser()
    if not path:
        raise UserError(f"{key} is empty: give {key}=FOLDER")
    if not folder.exists():
        _check_hub_name(path, key)
        return
    if not folder.is_dir():
        raise UserError(f"{key}={path} is a file: give the folder that holds config.json and the weights")
    _check_config(folder, path, key)
    if not any(next(folder.glob(pattern), None) for pattern in WEIGHT_FILES):
        raise UserError(f"{key}={path} holds no weights (*.safetensors): copy them there or give another folder")
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise UserError(f"{key}={path} holds no tokenizer ({', '.join(TOKENIZER_FILES)}): "
                        "copy the model's tokenizer files there")
    if chat and not _has_chat_template(folder, path, key):
        raise UserError(f"{key}={path} has no chat template, as base models have none: use the instruct model, "
                        f"or add chat_template.jinja to {path}")


def model_folder(path: str) -> str:
    """`path`, or the newest checkpoint's hf/ where it is a run's folder: one run starts where another ended."""
    found = [(int(p.parent.name[5:]), p) for p in Path(path).expanduser().glob("checkpoints/step_*/hf")
             if p.parent.name[5:].isdigit() and (p.parent / "trainer.json").is_file()]
    return str(max(found)[1]) if path and found else path


def check_run_dir(dir: str, key: str = "run.dir") -> None:
    """Makes the folder and writes a file into it.

    Raises:
        UserError: either fails.
    """
    try:
        Path(dir).expanduser().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=Path(dir).expanduser()) as f:
            f.write(b"\0")
            f.flush()
    except OSError as e:
        raise UserError(f"{key}={dir} cannot be written ({e.strerror}): make room there or give another folder "
                        f"by {key}=FOLDER") from e


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def check_port(host: str, port: int, key: str = "ray.dashboard_port") -> None:
    """Binds the port for a moment.

    Raises:
        UserError: it is in use or not allowed (names `key` and, where there is one, a free port), or `host` is no
            address of this machine.
    """
    failure = _bind_error(host, port)
    if failure is None:
        return
    host_key = key.replace("port", "host")
    if isinstance(failure, socket.gaierror) or failure.errno == errno.EADDRNOTAVAIL:
        raise UserError(f"{host_key}={host} is not an address of this machine: use {host_key}=127.0.0.1") from failure
    free = next((p for p in range(port + 1, min(port + 100, 65536)) if _bind_error(host, p) is None), None)
    why = "is in use" if failure.errno == errno.EADDRINUSE else f"cannot be opened ({failure.strerror})"
    raise UserError(f"port {port} of {host} {why}: set {key}={free or 'PORT'}") from failure


def _check_hub_name(path: str, key: str) -> None:
    """Lets a hub name through unless it is out of reach; anything else that does not exist is a missing folder."""
    if not HUB_NAME.fullmatch(path) or Path(path).parts[0] in LOCAL_ROOTS or Path(path).parent.is_dir():
        made_by = " (python main.py mode=sft makes one)" if path == "assets/starter" else ""
        raise UserError(f"{key}={path} does not exist: give an existing model folder by {key}=FOLDER{made_by}")
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    if offline and not any((_hub_cache() / f"models--{path.replace('/', '--')}" / "snapshots").glob("*/config.json")):
        raise UserError(f"{key}={path} is a hub name, and HF_HUB_OFFLINE=1 keeps the hub out of reach: "
                        f"give a local folder by {key}=FOLDER, or unset HF_HUB_OFFLINE")


def _hub_cache() -> Path:
    home = os.environ.get("HF_HOME") or Path("~/.cache/huggingface").expanduser()
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub")


def _check_config(folder: Path, path: str, key: str) -> None:
    if not (folder / "config.json").is_file():
        inner = next((p.parent for p in sorted(folder.glob("**/hf/config.json"), reverse=True)), None)
        raise UserError(f"{key}={path} holds no config.json, so it is no model folder: "
                        + (f"did you mean {key}={inner}?" if inner else "give the folder that holds config.json"))
    _read_json(folder / "config.json", key)


def _has_chat_template(folder: Path, path: str, key: str) -> bool:
    if any((folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    settings = folder / "tokenizer_config.json"
    return settings.is_file() and bool(_read_json(settings, key).get("chat_template"))


def _read_json(path: Path, key: str) -> dict:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise UserError(f"{path} is not valid JSON ({e}): copy the file anew or give another {key}") from e
    if not isinstance(value, dict):
        raise UserError(f"{path} is not a JSON object: copy the file anew or give another {key}")
    return value


def _bind_error(host: str, port: int) -> OSError | None:
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, proto) as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind(address)
    except OSError as e:
        return e
    return None
