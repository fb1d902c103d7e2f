"""Model name -> local folder, dataset name -> local files. The only module that reaches the network."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from runoff.checkpoint.files import DOWNLOAD_EXCEPT, DOWNLOAD_PATTERNS
from runoff.checkpoint.layout import Role
from runoff.contracts import CheckpointNotFoundError, DatasetListing, HubError, InputError, RunoffError

BUNDLED = {"runoff-nano": "runoff_nano"}
"""Models that come as a Python distribution of their own: name -> import name."""

DATASET_FILES = (".parquet", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".gz")
"""Endings of what holds a dataset's rows, where its card names no files."""

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
    return _download(hub_id(name, role), revision, cache_folder, local_files_only, token)


def hub_id(name: str, role: Role) -> str:
    """ORG/NAME of a model on the hub; a bare name means the organisation that publishes such models."""
    return name if "/" in name else f"{_DEFAULT_ORGANISATION[role]}/{name}"


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

    with _explained("model", repo_id, revision, "pass a local folder", CheckpointNotFoundError):
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


@contextmanager
def _explained(
    kind: str, repo_id: str, revision: str | None, remedy: str, refusal: type[RunoffError]
) -> Iterator[None]:
    """Turns what the hub refuses into `refusal`, saying what to do; `remedy` is for who cannot reach it."""
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
        yield
    except GatedRepoError as error:
        raise refusal(
            f"the {kind} {what} is gated: accept its terms on its page, then pass token= (or run `hf auth login`)"
        ) from error
    except RevisionNotFoundError as error:
        raise refusal(f"the hub has no {what}; check the revision's name") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise refusal(
            f"no {kind} {what}: neither a local folder nor on the hub. Check the spelling; a private {kind} needs "
            "token="
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise refusal(
            f"the {kind} {what} is not in the local cache and the hub cannot be reached (or offline mode is on: "
            f"HF_HUB_OFFLINE, local_files_only). Download it once while online, or {remedy}"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise refusal(f"the {kind} {what} could not be fetched: {error}") from error


# --- upload ----------------------------------------------------------------------------------------------

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def check_push(repo_id: str, token: str | None = None) -> None:
    """Raises `InputError` for what is no ORG/NAME and `HubError` where nothing could be sent, before any work."""
    from huggingface_hub import constants, get_token

    if not _REPOSITORY.fullmatch(repo_id):
        raise InputError(f"expected ORG/NAME as the repository on the hub, got {repo_id!r}")
    if constants.HF_HUB_OFFLINE:
        raise HubError(
            f"cannot push {repo_id}: offline mode is on (HF_HUB_OFFLINE). Take it away where the hub is"
        )
    if not (token or get_token()):
        raise HubError(
            f"cannot push {repo_id} without a token that may write: run `hf auth login`, or set HF_TOKEN"
        )


def push_folder(
    folder: Path, repo_id: str, *, private: bool = False, message: str = "", token: str | None = None
) -> str:
    """The address of the hub's model `repo_id`, made if need be, once it holds the files of `folder`.

    `HubError` says what the hub refused; files of the same names are replaced there in one commit.
    """
    from huggingface_hub import HfApi

    check_push(repo_id, token)
    api = HfApi(token=token)
    with _push_explained(repo_id):
        address = api.create_repo(repo_id, repo_type="model", private=private or None, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id,
            repo_type="model",
            folder_path=str(folder),
            commit_message=message or f"Upload {folder.name}",
        )
    return str(address)


@contextmanager
def _push_explained(repo_id: str) -> Iterator[None]:
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    remedy = "The folder is written and whole: push it again with --force once that is mended"
    try:
        yield
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise HubError(
                f"the hub refuses to write {repo_id} ({status}): the token must be one that may write there. {remedy}"
            ) from error
        raise HubError(f"the hub did not take {repo_id}: {error}. {remedy}") from error
    except HFValidationError as error:
        raise InputError(f"{repo_id!r} is no name for a model on the hub: {error}") from error
    except (OfflineModeIsEnabled, OSError) as error:
        raise HubError(f"cannot reach the hub to push {repo_id}: {error}. {remedy}") from error
    except Exception as error:
        # What the library's own HTTP client raises is no OSError, and which client it is depends on its version.
        if type(error).__module__.partition(".")[0] not in ("httpx", "httpx2", "requests", "urllib3"):
            raise
        raise HubError(f"cannot reach the hub to push {repo_id}: {error}. {remedy}") from error


# --- datasets --------------------------------------------------------------------------------------------


class HubDatasets:
    """Datasets of the hub, each file fetched when it is asked for; `copies`: names -> folders that hold one whole.

    A copy is what `hf download NAME --repo-type dataset --local-dir FOLDER` makes.
    """

    def __init__(self, copies: Mapping[str, Path] | None = None, token: bool | str | None = None) -> None:
        self._copies, self._token = dict(copies or {}), token
        self._listed: dict[tuple[str, str | None], DatasetListing] = {}
        for name, folder in self._copies.items():
            if not folder.is_dir():
                raise InputError(f"no folder {folder}; expected the copy of the dataset {name}")

    def listing(self, dataset: str, revision: str | None) -> DatasetListing:
        """The configurations that the card names, with their files; without any, a folder is one. Asked once."""
        asked = (dataset, revision)
        if asked not in self._listed:
            self._listed[asked] = self._list(dataset, revision)
        return self._listed[asked]

    def _list(self, dataset: str, revision: str | None) -> DatasetListing:
        from huggingface_hub import HfApi, metadata_load

        if (copy := self._copies.get(dataset)) is not None:
            found = (path.relative_to(copy) for path in copy.rglob("*") if path.is_file())
            files = [path.as_posix() for path in found if not path.parts[0].startswith(".")]
            card: Mapping[str, Any] = (
                (metadata_load(copy / "README.md") or {}) if "README.md" in files else {}
            )
            return DatasetListing(None, _configs(files, card.get("configs")), _licence(card))
        with _explained("dataset", dataset, revision, _copy_remedy(dataset), InputError):
            info = HfApi(token=self._token).dataset_info(dataset, revision=revision)
        card = vars(info.card_data) if info.card_data else {}
        files = [each.rfilename for each in info.siblings or ()]
        return DatasetListing(info.sha, _configs(files, card.get("configs")), _licence(card))

    def fetch(self, dataset: str, file: str, commit: str | None) -> Path:
        """The file in the hub's cache (fetched there if need be), or in the copy."""
        from huggingface_hub import hf_hub_download

        if (copy := self._copies.get(dataset)) is not None:
            return copy / file
        with _explained("dataset", dataset, commit, _copy_remedy(dataset), InputError):
            return Path(
                hf_hub_download(dataset, file, repo_type="dataset", revision=commit, token=self._token)
            )


def _copy_remedy(dataset: str) -> str:
    return (
        f"`hf download {dataset} --repo-type dataset --local-dir FOLDER` where there is a network, and name that copy: "
        f"--copy {dataset}=FOLDER"
    )


def _licence(card: Mapping[str, Any]) -> str | None:
    found = card.get("license")
    return None if found is None else ", ".join(map(str, found)) if isinstance(found, list) else str(found)


def _configs(files: Sequence[str], stated: Any) -> dict[str, dict[str, list[str]]]:
    """Configuration -> split -> files, as a card's `configs` state them, or else by folders and file names."""
    if not stated:
        found: dict[str, dict[str, list[str]]] = {}
        for file in sorted(files):
            path = PurePosixPath(file)
            if path.suffix in DATASET_FILES:
                config = path.parts[0] if len(path.parts) > 1 and path.parts[0] != "data" else "default"
                found.setdefault(config, {}).setdefault(_split(path.name), []).append(file)
        return found
    return {
        config["config_name"]: {
            split: sorted(file for file in files if any(_fits(file, pattern) for pattern in patterns))
            for split, patterns in _patterns(config).items()
        }
        for config in stated
    }


def _split(name: str) -> str:
    """The split that a file's name begins with; "train" where it begins with none."""
    first = re.split(r"[-._]", name)[0]
    return {"validation": "validation", "valid": "validation", "dev": "validation", "test": "test"}.get(
        first, "train"
    )


def _patterns(config: Mapping[str, Any]) -> dict[str, list[str]]:
    """Split -> patterns of one configuration: a card names them plainly, or split by split."""
    given = config.get("data_files") or f"{config.get('data_dir', config['config_name'])}/**"
    found: dict[str, list[str]] = {}
    for each in given if isinstance(given, list) else [given]:
        split, path = (
            (each.get("split", "train"), each["path"]) if isinstance(each, dict) else ("train", each)
        )
        found.setdefault(split, []).extend(path if isinstance(path, list) else [path])
    return found


def _fits(file: str, pattern: str) -> bool:
    """Whether a pattern means the file: one star stays within a folder, two do not."""
    if "**" in pattern:
        return fnmatchcase(file, pattern.replace("**/", "*").replace("**", "*"))
    parts, wanted = file.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))
