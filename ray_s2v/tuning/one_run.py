"""`python -m ray_s2v.tuning.one_run JOB.yaml` is the run of a trial: as `ray_s2v.train`, but told to the process that started it.

Its output is lines of JSON: the messages of `run_training`, {"note": ...}, and {"failed": ...} if it fails. It ends when its input does.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray_s2v.job_file import load_job
from ray_s2v.schema import RunStopped, UserError
from ray_s2v.training.driver import run_training
from ray_s2v.training.prepare import prepare
from ray_s2v.training.run_folder import alone_in


def main(path: str) -> int:
    """Returns the exit code: 0 done, 1 failed."""
    tell = _teller()
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def note(text: str) -> None:
        tell({"note": text})

    try:
        prepared = prepare(load_job(path), note)
        with alone_in(Path(prepared.job.run.folder)):
            run_training(prepared, tell, note)
    except (UserError, RunStopped) as error:
        tell({"failed": str(error)})
        return 1
    return 0


def _teller() -> Callable[[dict[str, Any]], None]:
    """Writes messages to the standard output, which nothing else writes to from then on."""
    messages = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def tell(message: dict[str, Any]) -> None:
        messages.write(json.dumps(message) + "\n")
        messages.flush()

    return tell


def _end_with_parent() -> None:
    sys.stdin.read()  # which ends when the other end is closed, by whatever end of that process
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
