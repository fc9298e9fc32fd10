"""`python -m ray_s2v.tune SWEEP.yaml [key=value ...]` runs the trials of a sweep and writes the best job."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ray_s2v.command import file_command, say
from ray_s2v.sweep_file import load_sweep


def tune(path: str, overrides: Sequence[str]) -> None:
    """Runs a sweep; returns when all its trials have come to an end."""
    sweep = load_sweep(path, overrides)
    # Imported when the sweep has been read: torch and Ray take seconds, a typing mistake should not.
    from ray_s2v.tuning.run import run_sweep

    run_sweep(sweep, path, say)


if __name__ == "__main__":
    sys.exit(file_command("tune", "SWEEP", tune, sys.argv[1:], goes_on="goes on with the trials that are not done"))
