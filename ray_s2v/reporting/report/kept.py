"""The page of a run that goes on, kept up to date."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ray_s2v.reporting.report.page import NAME, write_report
from ray_s2v.schema import ConfigError

NEWS = {"held_out", "checkpoint", "validation"}


class KeptPage:
    """Writes report.html again when there is news, and at the end of the block, however the run ends."""

    def __init__(self, folder: Path, note: Callable[[str], None]) -> None:
        self.folder, self.note, self.path = folder, note, folder / NAME

    def show(self, record: dict[str, Any]) -> None:
        """Takes what training/driver.py's run_training reports."""
        if not NEWS.isdisjoint(record):
            self._write()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if (self.folder / "job.yaml").exists():
            self._write()

    def _write(self) -> None:
        try:
            write_report(self.folder)
        except (OSError, ConfigError) as error:  # a full disk, say, which must not end the run
            self.note(f"{self.path} could not be written: {error}")
