"""The process that records a run with wandb: JSON lines in, a line out when the run has begun and one when it has ended.

In: {"begin": arguments of wandb.init, "init_s", "finish_s": seconds, "watched": process id}, then {"step", "figures": {chart: value}} and
{"step", "video": chart, "path"}, in the end {"end": exit code}. Out: {"folder", "url"}, {"finished": true}, or {"failed": reason}.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import wandb


def main() -> None:
    """Records what comes in. Where it ends without an end, the run that it came from was killed."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what wandb prints is not among the answers

    def answer(line: dict[str, Any]) -> None:
        answers.write(json.dumps(line) + "\n")
        answers.flush()

    lines = map(json.loads, sys.stdin)
    try:
        first = next(lines)
        run = _begun(first)
        answer({"folder": os.path.dirname(run.dir), "url": None if run.offline else run.url})
        exit_code = 1
        for line in lines:
            if "end" in line:
                exit_code = line["end"]
                break
            _log(run, line)
        run.finish(exit_code)
    except TimeoutError:
        answer({"failed": f"not all was uploaded in {first['finish_s']} s"})
    except wandb.errors.Error as error:
        answer({"failed": " ".join(str(error).split())[:300]})
    else:
        answer({"finished": True})


def _begun(first: dict[str, Any]) -> wandb.Run:
    """The run at W&B, the same again if it was there before.

    wandb's own steps must not go back, those of a resumed run do, and videos come later than the figures of their step. So charts are
    drawn over a figure of ours, and a step that comes twice is a second point at its place.
    """
    settings = wandb.Settings(
        init_timeout=first["init_s"],
        finish_timeout=first["finish_s"],
        finish_timeout_raises=True,
        x_stats_pid=first["watched"],
        console="off",
        silent=True,
        disable_git=True,  # a remote's URL may hold a password
        save_code=False,
    )
    run = wandb.init(**first["begin"], resume="allow", settings=settings)
    run.define_metric("step", hidden=True)
    run.define_metric("*", step_metric="step")
    return run


def _log(run: wandb.Run, line: dict[str, Any]) -> None:
    values = line["figures"] if "figures" in line else {line["video"]: wandb.Video(line["path"], format="mp4")}
    run.log({"step": line["step"], **values})


if __name__ == "__main__":
    main()
