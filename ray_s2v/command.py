"""What the entry points share: reading the job, telling users' mistakes, exit codes."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence

from ray_s2v.config.job import Job
from ray_s2v.job_file import load_job
from ray_s2v.schema import RunStopped, UserError

USAGE = "usage: python -m ray_s2v.{name} {file}.yaml [section.key=value ...]{more}"


def say(text: str) -> None:
    """A line on the terminal at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def command(name: str, run: Callable[[Job], None], arguments: Sequence[str], goes_on: str = "", more: str = "") -> int:
    """Runs a job and returns the exit code: 0 done, 1 stopped by a failure, 2 a mistake of the user's, 130 Ctrl-C.

    goes_on: what the same command does after Ctrl-C. more: of the usage.
    """
    return file_command(name, "JOB", lambda path, overrides: run(load_job(path, overrides)), arguments, goes_on, more)


def file_command(
    name: str, file: str, run: Callable[[str, Sequence[str]], None], arguments: Sequence[str], goes_on: str = "", more: str = ""
) -> int:
    """As `command`, for what runs another kind of file than a job's: `run` gets its path and the overrides."""
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stderr.write(USAGE.format(name=name, file=file, more=more) + "\n")
        return 0 if arguments else 2
    # DeepSpeed, which other libraries import where it is installed, warns of every machine without a GPU.
    logging.getLogger("DeepSpeed").addFilter(lambda record: "Setting accelerator to CPU" not in record.getMessage())
    try:
        run(arguments[0], arguments[1:])
    except UserError as error:
        sys.stderr.write(f"\n{error}\n")
        return 2
    except RunStopped as error:
        sys.stderr.write(f"\n{error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"\nstopped{goes_on and f'; the same command {goes_on}'}\n")
        return 130
    return 0
