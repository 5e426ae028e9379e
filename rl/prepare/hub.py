"""Files of a dataset on the hub: listed at a revision, fetched one by one as they are read.

huggingface_hub keeps what it fetched and goes on with what it had begun, so a run that was cut off does not fetch
anything twice; without a network, what is there already is used.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from conf.errors import UserError

T = TypeVar("T")


def listing(repo: str, revision: str) -> tuple[str, list[str]]:
    """(commit, names of all files) of a dataset. Raises UserError naming prepare.input=[FOLDER] as the way out."""
    import huggingface_hub as hub

    def ask() -> tuple[str, list[str]]:
        info = hub.HfApi().dataset_info(repo, revision=revision or None)
        return str(info.sha), sorted(file.rfilename for file in info.siblings or [])

    try:
        return _reach(repo, revision, ask)
    except UserError as error:
        if (cached := _cached(repo, revision)) is None:
            raise
        print(f"{error}; going on with the {len(cached[1])} files of it that this machine has")
        return cached


def fetch(repo: str, commit: str, name: str) -> Path:
    """A file's path on this machine, downloaded if it is not there. Raises UserError as `listing` does."""
    import huggingface_hub as hub

    return Path(_reach(repo, commit, lambda: hub.hf_hub_download(repo, name, repo_type="dataset", revision=commit)))


def _reach(repo: str, revision: str, ask: Callable[[], T]) -> T:
    import httpx
    from huggingface_hub import errors

    local = f"download it on a machine that can and give the folder: prepare.input=[FOLDER] ({repo} as published)"
    try:
        return ask()
    except errors.OfflineModeIsEnabled as error:
        raise UserError(f"{repo}: HF_HUB_OFFLINE=1 keeps the hub out of reach: unset it, or {local}") from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{repo} has no revision {revision!r} on the hub: give another one as "
                        f"prepare.input=[{repo}@REVISION]") from error
    except (errors.RepositoryNotFoundError, errors.GatedRepoError) as error:
        raise UserError(f"the hub has no dataset {repo} for you (no such name, or it is private or gated): "
                        f"correct the name, log in with `hf auth login`, or {local}") from error
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, httpx.HTTPError, OSError) as error:
        raise UserError(f"the hub cannot be reached for {repo} ({_reason(error)}): try again, or {local}") from error


def _cached(repo: str, revision: str) -> tuple[str, list[str]] | None:
    """As `listing`, of the snapshot that this machine holds; None where there is none."""
    import huggingface_hub as hub
    from huggingface_hub import errors

    try:
        folder = Path(hub.snapshot_download(repo, repo_type="dataset", revision=revision or None,
                                            local_files_only=True))
    except (errors.LocalEntryNotFoundError, errors.HFValidationError, OSError):
        return None  # nothing of it is here: the caller says why the hub was not reached
    return folder.name, sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _reason(error: Any) -> str:
    text = " ".join(str(error.__cause__ or error).split())
    return text[:160] or type(error).__name__
