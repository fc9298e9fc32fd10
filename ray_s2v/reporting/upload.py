"""`python -m ray_s2v.reporting.upload` is one attempt at a push.

A process of its own, because huggingface_hub reads HF_ENDPOINT when it is imported, and because a process can be ended: neither
its requests nor hf_xet end by themselves where a hub hangs. Its argument is an Upload as JSON, its output an Answer. It ends when
its input does.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, set_client_factory
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils._http import default_client_factory

TRY_AGAIN = (408, 425, 429)  # of the statuses below 500


@dataclass(frozen=True)
class Upload:
    folder: str  # every file in it goes
    repo_id: str
    private: bool
    revision: str
    message: str  # of the commit
    silence_s: float  # without a byte from the hub, after which a request has failed


@dataclass(frozen=True)
class Answer:
    """An address, or why there is none."""

    url: str = ""  # of the commit
    reason: str = ""
    is_lasting: bool = False  # another attempt would end alike


def upload(wanted: Upload) -> Answer:
    """Makes repository and branch where they are not there, and one commit of all files; none where nothing has changed."""

    def client() -> Any:
        made = default_client_factory()
        made.timeout = wanted.silence_s
        return made

    set_client_factory(client)
    folder = Path(wanted.folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    api = HfApi(token=os.environ["HF_TOKEN"].strip())
    try:
        api.create_repo(wanted.repo_id, private=wanted.private, exist_ok=True)
        if wanted.revision != "main":
            api.create_branch(wanted.repo_id, branch=wanted.revision, exist_ok=True)
        commit = api.create_commit(
            wanted.repo_id,
            [CommitOperationAdd(path.relative_to(folder).as_posix(), path) for path in files],
            commit_message=wanted.message,
            revision=wanted.revision,
        )
    except (HfHubHTTPError, RuntimeError, ValueError) as error:  # what else there is ends the process, with a last line that says why
        cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
        status = cause.response.status_code if isinstance(cause, HfHubHTTPError) else None
        # A plain ValueError is about what was sent; one of a subclass, about an answer that is no JSON.
        is_lasting = type(cause) is ValueError if status is None else status < 500 and status not in TRY_AGAIN
        return Answer(reason=f"{type(cause).__name__}: {' '.join(str(cause).split())}", is_lasting=is_lasting)
    return Answer(url=str(commit.commit_url))


def _end_with_parent() -> None:
    sys.stdin.read()  # which ends when the other end is closed, by whatever end of that process
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.stdout.write(json.dumps(asdict(upload(Upload(**json.loads(sys.argv[1]))))) + "\n")
