"""Who is in a run's folder keeps others out; who only looks at it for a moment does not."""

import fcntl
import threading
import time
from pathlib import Path

import pytest

from ray_s2v.schema import ConfigError
from ray_s2v.training.run_folder import alone_in


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    with alone_in(tmp_path / "run"):
        with pytest.raises(ConfigError, match="in use by another run"), alone_in(tmp_path / "run"):
            raise AssertionError
        assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
    with alone_in(tmp_path / "run"):
        pass


def test_a_look_at_the_lock_keeps_nobody_out(tmp_path: Path) -> None:
    with (tmp_path / ".lock").open("w") as look:
        fcntl.flock(look, fcntl.LOCK_SH)
        release = threading.Timer(0.3, lambda: fcntl.flock(look, fcntl.LOCK_UN))
        release.start()
        started = time.monotonic()
        with alone_in(tmp_path):
            assert time.monotonic() - started > 0.2


def test_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ConfigError, match=r"^run.folder: .*/file/run cannot be written to: .*Not a directory"),
        alone_in(tmp_path / "file/run"),
    ):
        pass
