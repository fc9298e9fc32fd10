"""Copies of a run's checkpoints in another place, a folder or a bucket: `step_N` with the files of the checkpoint.

An object store renames nothing, so a copy is whole when it has its `contents.json`, which is written last and removed first.
"""

from __future__ import annotations

import posixpath
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pyarrow import fs

from ray_s2v.schema import ConfigError
from ray_s2v.storage import file_system, scheme_of
from ray_s2v.training.checkpoint import PARTIAL, publish
from ray_s2v.training.contents import CONTENTS, WRITERS, damage, read_contents
from ray_s2v.training.progress import NAME

TRIAL = ".ray_s2v_can_write_here"


class Copies:
    """What is at a place. Every method raises OSError where that cannot be reached, read or written to."""

    def __init__(self, place: str) -> None:
        """place: an absolute path or a URI. Raises ConfigError for a URI of a kind that cannot be written to."""
        if scheme_of(place) == "hf":
            raise ConfigError(
                f"{place}: checkpoints can be copied to folders, s3:// and gs://; hub.push: checkpoints pushes them to the hub"
            )
        self.place = place
        self.system, self.root = file_system(place)

    def check(self) -> None:
        """Raises OSError where nothing can be written."""
        self.system.create_dir(self.root, recursive=True)
        with self.system.open_output_stream(f"{self.root}/{TRIAL}") as file:
            file.write(b"1")
        self.system.delete_file(f"{self.root}/{TRIAL}")

    def add(self, checkpoint: Path, keep: int) -> None:
        """Copies a whole checkpoint, its files side by side, then removes all but the newest `keep` up to it and what is left of others."""
        target = f"{self.root}/{checkpoint.name}"
        self._remove(target)
        files = read_contents((checkpoint / CONTENTS).read_bytes())
        for folder in {posixpath.dirname(f"{target}/{name}") for name in files}:
            self.system.create_dir(folder, recursive=True)
        _side_by_side(lambda name: self._upload(checkpoint / name, f"{target}/{name}"), files)
        self._upload(checkpoint / CONTENTS, f"{target}/{CONTENTS}")
        there = [name for name in self._names() if _step(name) <= _step(checkpoint.name)]
        kept = [name for name in there if self._is_whole(name)][-keep:]
        for name in there:
            if name not in kept:
                self._remove(f"{self.root}/{name}")

    def newest(self) -> str | None:
        """The name of the newest copy that is there as a whole."""
        return next((name for name in reversed(self._names()) if self._is_whole(name)), None)

    def fetch_newest(self, into: Path, told: Callable[[str], object]) -> Path | None:
        """Brings the newest copy whose files all are as they were written into a folder of checkpoints; None where there is none.

        `told` gets a line for it, and one for each that is damaged.
        """
        for name in reversed(self._names()):
            if not self._is_whole(name):
                continue
            partial = into / f"{PARTIAL}{name}"
            if partial.exists():
                shutil.rmtree(partial)
            if reason := self._fetch(name, partial):
                told(f"the copy {self.place}/{name} is damaged and passed over: {reason}")
                shutil.rmtree(partial, ignore_errors=True)
                continue
            publish(partial, into / name)
            told(f"{into} has no whole checkpoint; {name} is fetched from {self.place}")
            return into / name
        return None

    def _fetch(self, name: str, partial: Path) -> str:
        """Brings a copy; why it is damaged, empty if it is not."""
        partial.mkdir(parents=True)
        self._download(f"{self.root}/{name}/{CONTENTS}", partial / CONTENTS)
        try:
            files = read_contents((partial / CONTENTS).read_bytes())
        except ValueError as error:
            return str(error)
        for file in files:
            (partial / file).parent.mkdir(exist_ok=True)
        try:
            _side_by_side(lambda file: self._download(f"{self.root}/{name}/{file}", partial / file), files)
        except FileNotFoundError as error:
            return str(error)
        return damage(partial)

    def _names(self) -> list[str]:
        """Of all that is there, oldest first."""
        found = self.system.get_file_info(fs.FileSelector(self.root, allow_not_found=True))
        return sorted((info.base_name for info in found if NAME.fullmatch(info.base_name)), key=_step)

    def _is_whole(self, name: str) -> bool:
        return self.system.get_file_info(f"{self.root}/{name}/{CONTENTS}").type == fs.FileType.File

    def _remove(self, target: str) -> None:
        for delete, path, kind in (
            (self.system.delete_file, f"{target}/{CONTENTS}", fs.FileType.File),
            (self.system.delete_dir, target, fs.FileType.Directory),
        ):
            if self.system.get_file_info(path).type == kind:
                delete(path)

    def _upload(self, file: Path, target: str) -> None:
        with file.open("rb") as source, self.system.open_output_stream(target) as sink:
            shutil.copyfileobj(source, sink, 1 << 20)

    def _download(self, source: str, file: Path) -> None:
        with self.system.open_input_stream(source) as stream, file.open("wb") as sink:
            shutil.copyfileobj(stream, sink, 1 << 20)


def _side_by_side(work: Callable[[str], None], names: Iterable[str]) -> None:
    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(work, names))


def _step(name: str) -> int:
    found = NAME.fullmatch(name)
    assert found
    return int(found[1])
