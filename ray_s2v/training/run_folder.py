"""A run's folder, which one process at a time writes to."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ray_s2v.schema import ConfigError

PATIENCE_S = 1.0  # who only looks whether the folder is in use holds the lock for a moment


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Makes the folder if it is not there, and keeps others out until the end of the block or of the process, however it ends.

    Raises ConfigError if another run is in it, or it cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock_file = (folder / ".lock").open("w")
    except OSError as error:
        raise ConfigError(f"run.folder: {folder} cannot be written to: {error}") from error
    gives_up_at = time.monotonic() + PATIENCE_S
    with lock_file as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > gives_up_at:
                    raise ConfigError(f"run.folder: {folder} is in use by another run") from error
            time.sleep(0.1)
        yield
