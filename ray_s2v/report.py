"""`python -m ray_s2v.report RUN_FOLDER` writes report.html into a run's folder: how it went, or how far it has come."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ray_s2v.command import say
from ray_s2v.schema import ConfigError


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 0 done, 2 a mistake of the user's."""
    parser = argparse.ArgumentParser("python -m ray_s2v.report", description="A page of curves, videos and settings in a run's folder.")
    parser.add_argument("folder", metavar="RUN_FOLDER", type=Path, help="run.folder of a job; the run may be going on")
    options = parser.parse_args(arguments)
    from ray_s2v.reporting.report.page import write_report

    try:
        say(f"done: the report is {write_report(options.folder)}")
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
