"""A process that hangs ends, and says where it was; one that goes on, however slowly, is left alone."""

import subprocess
import sys

import pytest

PROCESS = """
import signal, sys, threading, time
from ray_s2v.training.hang import Watch

def rows():
    yield 1
    time.sleep({row_s})
    yield 2

with Watch({limit_s}, "worker 1", lambda text: print(text, flush=True)) as watch:
    {body}
print("through")
"""


def run(body: str, limit_s: float | None = 0.5, row_s: float = 0.0) -> subprocess.CompletedProcess[str]:
    script = PROCESS.format(body=body, limit_s=limit_s, row_s=row_s)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("body", "stack"),
    [
        ("watch.at('step 3'); time.sleep(50)", "<module>"),
        ("watch.at('step 3'); threading.Lock().acquire() and threading.Event().wait()", "wait"),
    ],
)
def test_what_hangs_is_named_and_ended(body: str, stack: str) -> None:
    done = run(body)
    assert done.returncode == 75
    assert done.stdout.startswith("worker 1 has not moved for ")
    assert "s, step 3: it hangs, or waits for one that does" in done.stdout
    assert stack in done.stderr
    assert "Thread" in done.stderr, "all threads"


@pytest.mark.parametrize(
    ("body", "limit_s"),
    [
        ("[(watch.beat(), time.sleep(0.1)) for _ in range(15)]", 0.5),
        ("time.sleep(1.5)", None),
    ],
)
def test_what_moves_goes_through(body: str, limit_s: float | None) -> None:
    done = run(body, limit_s)
    assert (done.returncode, done.stdout, done.stderr) == (0, "through\n", "")


def test_data_may_take_longer_but_not_for_ever() -> None:
    body = "watch.at('step 4'); print(list(watch.patient(rows())))"
    assert run(body, 0.5, row_s=1.5).stdout == "[1, 2]\nthrough\n"
    done = run(body, 0.2, row_s=50)
    assert done.returncode == 75
    assert "s, step 4, waiting for data: it hangs" in done.stdout
