"""`python -m ray_s2v.push RUN_FOLDER OWNER/NAME [hub.key=value ...]` pushes a run's adapter to the Hugging Face Hub.

For a push that failed, a run that was not to be pushed, or one that still trains: its newest checkpoint.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ray_s2v.command import file_command, say
from ray_s2v.job_file import load_job
from ray_s2v.schema import ConfigError, RunStopped


def push(folder: str, arguments: Sequence[str]) -> None:
    """Pushes the final adapter, or the newest checkpoint's where there is none yet; returns when the hub has it.

    arguments: the repository, and settings of it.
    """
    repo_id, *overrides = arguments
    for text in overrides:
        if not text.startswith("hub."):
            raise ConfigError(f"{text!r}: only settings of hub can be given, such as hub.private=false")
    run = Path(folder)
    if not (run / "job.yaml").is_file():
        raise ConfigError(f"{folder}: no folder of a run: it holds no job.yaml")
    job = load_job(str(run / "job.yaml"), [f"hub.repo_id={repo_id}", *overrides])
    assert job.hub
    from ray_s2v.reporting.hub import NotPushed, check_hub, push_adapter
    from ray_s2v.training.progress import load_progress, newest_whole

    if mistakes := check_hub(job.hub):
        raise ConfigError("\n".join(mistakes))
    adapter, steps = run / "adapter", None
    if not adapter.is_dir():
        newest = newest_whole(run / "checkpoints", say)
        if not newest:
            raise ConfigError(f"{folder} holds neither an adapter nor a checkpoint yet")
        steps, adapter = load_progress(newest).step, newest
    try:
        say(f"pushed to {push_adapter(run, adapter, job, job.hub, steps)}")
    except (NotPushed, OSError) as error:
        raise RunStopped(f"not pushed: {error}") from error


def _main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("python -m ray_s2v.push", description="Pushes a run's adapter to the Hugging Face Hub.")
    parser.add_argument("run", metavar="RUN_FOLDER")
    parser.add_argument("repo_id", metavar="OWNER/NAME")
    parser.add_argument("overrides", metavar="hub.key=value", nargs="*", help="such as hub.private=false")
    given = parser.parse_args(arguments)
    return file_command("push", "RUN", push, [given.run, given.repo_id, *given.overrides])


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
