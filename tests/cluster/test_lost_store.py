"""The bucket that checkpoints are copied to is slow, and then gone: training goes on, and says what has no copy."""

import os
import sys
import time
from pathlib import Path

import pytest
from pyarrow import fs

from ray_s2v.training.contents import CONTENTS
from ray_s2v.training.progress import complete_checkpoints
from tests.cluster.conftest import SHORT, STEPS, wait_for_step
from tests.cluster.faults import assert_same_history, kill, repeated, wait_for
from tests.s3 import s3_server

pytestmark = [pytest.mark.timeout(700), pytest.mark.long]


def test_a_bucket_that_stands_still_then_dies(start, undisturbed, kept, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with s3_server() as system:
        system.create_dir("copies")
        (server,) = wait_for(os.getpid(), f"{sys.executable} -m moto.server")
        process = start(*SHORT, *kept, f"run.folder={run}", "checkpoint.copy_to=s3://copies/run", "checkpoint.on_failure=continue")
        wait_for_step(run, 3, process)
        server.suspend()
        wait_for_step(run, 6, process)
        time.sleep(3)
        server.resume()
        wait_for_step(run, 8, process)
        copied = [info.path for info in system.get_file_info(fs.FileSelector("copies/run", recursive=True))]
        kill(server)
        said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    assert f"copies/run/step_000003/{CONTENTS}" in copied
    assert f"the copy of the checkpoint of step {STEPS} could not be written: " in said
    assert said.count("Training goes on") >= 1
    assert "Traceback" not in said
    assert [step for step, _ in complete_checkpoints(run / "checkpoints")] == [STEPS - 3, STEPS]
    assert repeated(run) == []
    assert_same_history(run, undisturbed.folder)
