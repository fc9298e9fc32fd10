"""The store: filled, killed while it is filled, and trained from."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.cluster.conftest import SHORT, entries, records

pytestmark = pytest.mark.timeout(600)
MAX_WAIT = 0.02  # share of the time after the first step


def wait_for(count: int, kind: str, store: Path, process: subprocess.Popen[str], timeout_s: float = 150) -> None:
    deadline = time.monotonic() + timeout_s
    while len(entries(store, kind)) < count:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, f"{count} of {kind} were not there in {timeout_s} s"
        time.sleep(0.05)


def encoder_of(process: subprocess.Popen[str]) -> psutil.Process:
    """The actor that holds the VAE."""
    below = psutil.Process(process.pid).children(recursive=True)
    return next(child for child in below if "EncodeVideo" in " ".join(child.cmdline()))


def test_killed_encoding_goes_on_to_the_same_store(start, store, tmp_path):
    """kill -9 of the encoder's actor, then of the driver, then Ctrl-C: every entry byte for byte that of the undisturbed store."""
    other = tmp_path / "store"
    settings = [*SHORT, f"data.store={other}", f"run.folder={tmp_path / 'run'}"]
    killed = start(*settings, module="encode")
    wait_for(6, "video", other, killed)
    encoder_of(killed).kill()
    wait_for(14, "video", other, killed)
    killed.kill()
    killed.wait()
    time.sleep(1)  # what Ray's processes of that life still write, they have written

    stopped = start(*settings, module="encode")
    wait_for(len(entries(other, "video")) + 4, "video", other, stopped)
    stopped.send_signal(signal.SIGINT)
    said = stopped.communicate(timeout=60)[0]
    assert stopped.returncode == 130, said
    assert "the same command encodes what is still missing" in said
    time.sleep(1)

    before = {name: path.stat().st_mtime_ns for name, path in entries(other).items()}
    last = start(*settings, module="encode")
    said = last.communicate(timeout=300)[0]
    assert last.returncode == 0, said
    whole, again = entries(store), entries(other)
    assert whole.keys() == again.keys()
    assert all(whole[name].read_bytes() == again[name].read_bytes() for name in whole)
    assert all(again[name].stat().st_mtime_ns == modified for name, modified in before.items()), "encoded again"
    assert f"{len(whole) - len(before)} video encoded" in said


def test_training_from_the_store_is_training_from_the_clips(start, store, undisturbed, tmp_path):
    """The same losses, to the bit, and next to no waiting for data; the clips' pictures are not needed any more."""
    run = tmp_path / "run"
    process = start(*SHORT, f"data.store={store}", f"run.folder={run}", "data.features=store")
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    assert "no encoders run" in said
    streamed = records(undisturbed.folder)
    stored = records(run)
    for a, b in zip(streamed, stored, strict=True):
        assert a["clip_ids"] == b["clip_ids"]
        assert a["losses"] == b["losses"]
    rest = stored[1:]
    assert sum(record["wait_s"] for record in rest) < MAX_WAIT * sum(record["step_s"] for record in rest)
    assert "data wait" in said


def test_store_that_lacks_something_is_refused_before_training(start, store, tmp_path):
    other = tmp_path / "store"
    shutil.copytree(store, other)
    for path in list(entries(other, "video").values())[:3]:
        os.unlink(path)
    process = start(*SHORT, f"data.store={other}", f"run.folder={tmp_path / 'run'}", "data.features=store")
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 2, said
    assert "lacks features for the rest of the run: 3 of video" in said
    assert "python -m ray_s2v.encode" in said
    assert not (tmp_path / "run/checkpoints").exists()
