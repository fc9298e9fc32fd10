"""What can lie in the place of any file: nothing, a folder, a pipe, a device, a socket, a link in a circle."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

Maker = Callable[[Path], object]


def _socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the name of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    finally:
        os.chdir(here)


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 36)


IN_PLACE_OF_A_FILE: dict[str, Maker] = {
    "a folder": lambda path: path.mkdir(),
    "a pipe that nobody writes to": os.mkfifo,
    "a socket": _socket,
    "a link to itself": lambda path: path.symlink_to(path),
    "a link to nothing": lambda path: path.symlink_to("gone"),
    "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "a link to a file whose reading fails": lambda path: path.symlink_to("/proc/self/mem"),
    "empty": lambda path: path.touch(),
    "64 GiB of nothing": _sparse,
}
