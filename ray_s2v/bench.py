"""`python -m ray_s2v.bench JOB.yaml [section.key=value ...] [options]` measures training steps.

Synthetic batches of the job's own shape and random weights: it needs no clips, no checkpoint and no Ray.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from ray_s2v.benchmark.compare import check_jobs, compared, read_list
from ray_s2v.benchmark.table import comparison_table, run_table
from ray_s2v.command import command, say
from ray_s2v.config.job import Job
from ray_s2v.schema import ConfigError

STEPS = 5


def bench(job: Job, steps: int, out: Path | None, variants: Path | None, profile: Path | None, arguments: Sequence[str]) -> None:
    """Measures the job, or each of the variants of it, shows a table and writes what `--out` and `--profile` ask for.

    arguments: of the command line, without those that are given here. Raises ConfigError; RunStopped where it does not fit.
    """
    if out and not out.absolute().parent.is_dir():
        raise ConfigError(f"--out {out}: must be a file in a folder that is there")
    if profile:
        _make(profile)
    if variants:
        listed = read_list(variants)
        check_jobs(listed, arguments)
        for runs in compared(listed, [*arguments, "--steps", str(steps)], profile, say):
            _keep(runs, out)
        table = comparison_table(runs)
    else:
        # Imported when the job has been read: torch takes seconds, a typing mistake should not.
        from ray_s2v.benchmark.workers import run_benchmark

        found = run_benchmark(job, steps, profile, say)
        _keep(found, out)
        table = run_table(found)
    say(f"\n{table}")


def _keep(found: Any, out: Path | None) -> None:
    if out:
        out.write_text(json.dumps(found, indent=2) + "\n")


def _make(folder: Path) -> None:
    """Raises ConfigError if traces cannot be written there: they are, when all has been measured."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(f"--profile {folder}: {error.strerror}; it must be a folder to write in, or one that can be made") from error


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of steps, at least 1, not {text}")
    return int(text)


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 0 done, 1 does not fit, 2 a mistake of the user's, 130 Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m ray_s2v.bench",
        usage="%(prog)s JOB.yaml [section.key=value ...] [--compare LIST.yaml] [--steps N] [--out FILE.json] [--profile FOLDER]",
        description="Measures a job's training steps on this machine, with synthetic batches and random weights.",
        allow_abbrev=False,
    )
    parser.add_argument("own", metavar="JOB.yaml", nargs="+", help="the job, and what is otherwise in it")
    parser.add_argument("--compare", metavar="LIST.yaml", type=Path, help="measure the job under each of these settings")
    parser.add_argument(
        "--steps", metavar="N", type=_count, default=STEPS, help=f"measured steps of each kind of batch; {STEPS} if not given"
    )
    parser.add_argument("--out", metavar="FILE.json", type=Path, help="all figures, with every step's")
    parser.add_argument(
        "--profile",
        metavar="FOLDER",
        type=Path,
        help="record one step more of each kind of batch with torch.profiler: a Chrome trace of each worker, KIND.WORKER.json.gz, over "
        "one that is there, and in the report gpu_ms, where the GPU's time goes (not on a CPU); under --compare a folder for each setting",
    )
    given = parser.parse_intermixed_args(arguments)
    run = partial(bench, steps=given.steps, out=given.out, variants=given.compare, profile=given.profile, arguments=given.own)
    return command("bench", run, given.own)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
