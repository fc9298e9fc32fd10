"""What the driver refuses before it asks Ray for anything."""

import fcntl
from pathlib import Path

import pytest

from ray_s2v.config.job import Dropout
from ray_s2v.data.plan import Plan
from ray_s2v.schema import ConfigError
from ray_s2v.training.driver import run_training
from ray_s2v.training.prepare import Prepared
from tests.spawn.zero_runs import tiny_job


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    job = tiny_job(2, 1)
    job = job.model_copy(update={"run": job.run.model_copy(update={"folder": str(tmp_path)})})
    prepared = Prepared(job, [], Plan((), 0, 4, 0.5, Dropout()), 6, 0, None)
    with (tmp_path / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="in use by another run"):
            run_training(prepared, lambda record: None, lambda text: None)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
