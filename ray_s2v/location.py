"""Where a model lies: a folder of this machine, or a repository of the hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import httpx

from ray_s2v.schema import ConfigError


class Place(NamedTuple):
    """Where weights lie, in the words of `from_pretrained`."""

    path: str  # a folder, absolute, or owner/repository of the hub
    subfolder: str  # of the repository; empty for none, and for a folder of this machine


def find_place(place: str | Path) -> Place:
    """The folder of this machine, or else the hub repository, that `place` names; nothing is fetched.

    place: a folder, or `owner/repository` or `owner/repository/sub/folder` of the Hugging Face hub. ConfigError for a path
    that is neither.
    """
    folder = Path(place).expanduser()
    if folder.is_dir():
        return Place(str(folder.resolve()), "")
    owner, _, rest = str(place).partition("/")
    repository, _, subfolder = rest.partition("/")
    if owner in ("", ".", "..", "~") or not repository:
        raise ConfigError(f"{place}: no such folder, and no owner/repository of the hub")
    return Place(f"{owner}/{repository}", subfolder)


def local_folder(place: str | Path, patterns: Sequence[str]) -> Path:
    """The folder that `place` names; of a hub repository the files that match `patterns` are fetched into the cache first.

    Hub, cache and token are huggingface_hub's, from the environment. ConfigError where the hub does not give it.
    """
    path, subfolder = find_place(place)
    if Path(path).is_dir():
        return Path(path)
    from huggingface_hub import snapshot_download  # slow to import, and not needed for folders
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    prefix = f"{subfolder}/" if subfolder else ""
    try:
        return Path(snapshot_download(path, allow_patterns=[prefix + pattern for pattern in patterns])) / subfolder
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ConfigError(f"{place}: no such folder here, and the hub did not give it: {error}") from error


def check_place(place: str | Path, file: str) -> None:
    """Raises ConfigError unless `file` is in the folder or hub repository that `place` names; asks the hub, fetches nothing."""
    path, subfolder = find_place(place)
    if Path(path).is_dir():
        if not (Path(path) / file).is_file():
            raise ConfigError(f"{path} holds no {file}")
        return
    from huggingface_hub import file_exists, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled

    name = f"{subfolder}/{file}" if subfolder else file
    try:
        known = file_exists(path, name)
    except HFValidationError:
        known = False
    except (OSError, OfflineModeIsEnabled, httpx.HTTPError):  # no network: what the cache holds will do
        known = isinstance(try_to_load_from_cache(path, name), str)
    if not known:
        raise ConfigError(f"{place}: no such folder here, and no {name} in a repository {path} of the hub (or no network)")
