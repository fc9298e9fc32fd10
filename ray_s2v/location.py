"""Where a model lies: a folder of this machine, or a repository of the hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

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
    if Path(owner).is_dir():  # a slip in a path is likelier than a hub's owner of that name
        raise ConfigError(f"{place}: no such folder, though {owner} is one")
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
    """Raises ConfigError unless `file` (a small one) is in the folder or hub repository that `place` names.

    Of a repository, it is fetched into the cache; without network, what the cache holds will do.
    """
    path, subfolder = find_place(place)
    if Path(path).is_dir():
        if not (Path(path) / file).is_file():
            raise ConfigError(f"{path} holds no {file}")
        return
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HFValidationError

    try:
        hf_hub_download(path, file, subfolder=subfolder or None)
    except (HFValidationError, OSError) as error:  # OSError: what the hub refuses, does not have, or cannot be asked for
        name = f"{subfolder}/{file}" if subfolder else file
        raise ConfigError(f"{place}: no such folder here, and the hub gives no {name} of {path} ({type(error).__name__})") from error
