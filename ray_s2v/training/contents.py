"""What the files of a checkpoint must be: `contents.json`, written last, has the size and the SHA-256 of each. Light: no torch.

{"adapter_model.safetensors": {"bytes": 4096, "sha256": "9f86..."}, "ema/adapter_config.json": ...}
"""

from __future__ import annotations

import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

CONTENTS = "contents.json"
# Without these a run cannot go on; an average lies in a folder below, where the job wants one.
NEEDED = {"adapter_model.safetensors", "adapter_config.json", "optimizer.safetensors", "progress.json", "job.yaml"}
WRITERS = 4  # files that are written, hashed or copied side by side
_NAME = re.compile(r"(\w[\w.-]*/)?\w[\w.-]*")


class File(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


_FILES = TypeAdapter(dict[str, File])


def measured(folder: Path) -> dict[str, File]:
    """Every file of a folder by its name in it, and what it is."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    with ThreadPoolExecutor(WRITERS) as pool:
        return dict(zip(names, pool.map(lambda name: _file(folder / name), names), strict=True))


def as_text(files: dict[str, File]) -> bytes:
    return _FILES.dump_json(files, indent=1)


def read_contents(text: bytes) -> dict[str, File]:
    """What `as_text` was given. Raises ValueError with the reason where the text is something else."""
    try:
        files = _FILES.validate_json(text)
    except ValidationError as error:
        raise ValueError(f"{CONTENTS} is not as it was written") from error
    if strange := sorted(name for name in files if not _NAME.fullmatch(name)):  # which could lead out of the folder
        raise ValueError(f"{CONTENTS} names {strange[0]!r}, which no checkpoint holds")
    if lacking := sorted(NEEDED - files.keys()):
        raise ValueError(f"{CONTENTS} lacks {', '.join(lacking)}")
    return files


def damage(folder: Path) -> str:
    """Why a checkpoint cannot be gone on from; empty where every file is as it was written. Reads all of them."""
    if reason := damage_by_size(folder):
        return reason
    files = read_contents((folder / CONTENTS).read_bytes())
    for name, file in files.items():
        try:
            if _file(folder / name) != file:
                return f"{name} is not as it was written"
        except OSError as error:
            return f"{name}: {error.strerror}"
    return ""


def damage_by_size(folder: Path) -> str:
    """`damage` as far as it shows without reading the files."""
    if not (folder / CONTENTS).is_file():  # a pipe would be waited on
        return f"it has no {CONTENTS}"
    try:
        files = read_contents((folder / CONTENTS).read_bytes())
    except OSError as error:
        return f"{CONTENTS}: {error.strerror}"
    except ValueError as error:
        return str(error)
    for name, file in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != file.bytes:
            return f"{name} has {path.stat().st_size} bytes of {file.bytes}"
    return ""


def _file(path: Path) -> File:
    with path.open("rb") as file:
        return File(bytes=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())
