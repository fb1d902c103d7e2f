"""Model name -> local folder. The only module that reaches the network."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from runoff.checkpoint.files import DOWNLOAD_EXCEPT, DOWNLOAD_PATTERNS
from runoff.checkpoint.layout import Role
from runoff.contracts import CheckpointNotFoundError

BUNDLED = {"runoff-nano": "runoff_nano"}
"""Models that come as a Python distribution of their own: name -> import name."""

# A bare name means the organisation that publishes such models, as in sentence-transformers (notes A12).
_DEFAULT_ORGANISATION = {"reranker": "cross-encoder", "embedder": "sentence-transformers"}


def find_model(
    name_or_path: str | os.PathLike[str],
    role: Role,
    *,
    revision: str | None = None,
    cache_folder: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    token: bool | str | None = None,
) -> Path:
    """The folder of a model: a local one as it is, a bundled one, or a hub model's (downloaded if need be).

    Raises `CheckpointNotFoundError` saying where was looked and what to do.
    """
    name = os.fspath(name_or_path)
    path = Path(name).expanduser()
    if name and path.is_dir():  # "" would be the current folder
        return path
    if path.is_file():
        raise CheckpointNotFoundError(
            f"{name} is a file; expected the folder that holds a model's config.json"
        )
    if name in BUNDLED:
        return _bundled_folder(name)
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or not name:
        raise CheckpointNotFoundError(
            f"no folder {name!r}; expected a model folder or a hub id such as 'org/model'"
        )
    repo_id = name if "/" in name else f"{_DEFAULT_ORGANISATION[role]}/{name}"
    return _download(repo_id, revision, cache_folder, local_files_only, token)


def _bundled_folder(name: str) -> Path:
    spec = importlib.util.find_spec(BUNDLED[name])
    if spec is not None:
        module = importlib.import_module(BUNDLED[name])
        return Path(module.path())
    raise CheckpointNotFoundError(
        f"the model {name!r} comes as a distribution of its own, which is not installed: pip install 'runoff[nano]' "
        f"(in a clone of the repository: pip install ./models/{name})"
    )


def _download(
    repo_id: str,
    revision: str | None,
    cache_folder: str | os.PathLike[str] | None,
    local_files_only: bool,
    token: bool | str | None,
) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    what = repo_id if revision is None else f"{repo_id} at revision {revision!r}"
    try:
        return Path(
            snapshot_download(
                repo_id,
                revision=revision,
                cache_dir=None if cache_folder is None else os.fspath(cache_folder),
                local_files_only=local_files_only,
                token=token,
                allow_patterns=list(DOWNLOAD_PATTERNS),
                ignore_patterns=list(DOWNLOAD_EXCEPT),
            )
        )
    except GatedRepoError as error:
        raise CheckpointNotFoundError(
            f"the model {what} is gated: accept its terms on its page, then pass token= (or run `hf auth login`)"
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointNotFoundError(f"the hub has no {what}; check the revision's name") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise CheckpointNotFoundError(
            f"no model {what}: neither a local folder nor on the hub. Check the spelling; a private model needs token="
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise CheckpointNotFoundError(
            f"the model {what} is not in the local cache and the hub cannot be reached (or offline mode is on: "
            "HF_HUB_OFFLINE, local_files_only). Download it once while online, or pass a local folder"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise CheckpointNotFoundError(f"the model {what} could not be fetched: {error}") from error
