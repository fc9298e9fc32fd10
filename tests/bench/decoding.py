"""Clips decoded to the training size: through the whole Ray Data graph, and by the same functions in a bare pool of processes.

    python -m tests.bench.decoding [clips of the speed runs] [clips of the short and of the long memory run]

One table: clips a second of both in one run, on the same cores, start-up counted out; and the graph's peak memory.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from ray_s2v.cluster.join import join_cluster
from ray_s2v.config.job import Job
from ray_s2v.data.decode import decoded_sound, decoded_video
from ray_s2v.data.discover import discover
from ray_s2v.data.features import Features
from ray_s2v.data.plan import Plan
from ray_s2v.data.rows import to_row
from ray_s2v.data.stream import fetch, planned
from ray_s2v.demo.clips import Recording, write_clip
from ray_s2v.demo.faces import random_look

NUM_FILES = 8
WARM = 24  # rows that are not counted: processes start, and touch the object store's pages for the first time
OBJECT_STORE_BYTES = 2 * 10**9
FEATURES = Features(store="", streams=True, vae="", speech="", text="", dtype="fp16")


def make_files(folder: Path) -> None:
    """Talking clips in 720p at 25 pictures a second, 8 s each: between them every kind of window of 80 frames fits."""
    for index in range(NUM_FILES):
        draw = np.random.default_rng((7, index))
        write_clip(folder / f"clip_{index}.mp4", random_look(draw), Recording(1280, 720, Fraction(25), 48000, 8.0), draw)


def job_of(folder: Path) -> Job:
    """832x480, 80 frames, first clips; all else as a job that says nothing."""
    return Job.model_validate(
        {
            "run": {"folder": str(folder / "run")},
            "data": {"sources": [{"path": str(folder / "clips")}]},
            "encoders": {"vae": {"path": "vae"}, "speech": {"path": "speech"}, "text": {"path": "text", "tokenizer": "text"}},
            "model": {"path": "model"},
            "training": {"steps": 1, "global_batch": NUM_FILES, "continuation": 0.0},
        }
    )


def decode(row: dict[str, Any]) -> int:
    """Bytes of a row's decoded pictures and sound."""
    found = decoded_video(row) | decoded_sound(row)
    assert not found["video_error"]
    assert not found["speech_error"]
    return found["pixels"].nbytes + found["waveform"].nbytes


def rows_of(plan: Plan, count: int) -> list[dict[str, Any]]:
    return [dict(row) for row in plan.rows(0, -(-count // plan.slots))][:count]


def pool_rate(plan: Plan, count: int, processes: int) -> float:
    """Clips a second of a bare pool, which decodes and throws away."""
    rows = rows_of(plan, WARM + count)
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        pool.map(decode, rows[:WARM], chunksize=1)
        started = time.monotonic()
        pool.map(decode, rows[WARM:], chunksize=1)
        return count / (time.monotonic() - started)


def graph_rate(plan: Plan, job: Job, count: int) -> float:
    """Clips a second of the graph that training uses, up to the encoders, each taken by a consumer."""
    steps = range(-(-(WARM + count) // plan.slots))
    dataset = fetch(planned(plan, [], steps), job, FEATURES)
    taken = 0
    for table in dataset.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=2):
        assert to_row(table)["pixels"].shape == (81, 480, 832, 3)
        taken += 1
        if taken == WARM:
            started = time.monotonic()
    return (taken - WARM) / (time.monotonic() - started)


class PeakMemory:
    """The most memory that this process and all that it started hold at a time in a `with` block: `gib`, shared pages counted once."""

    def __enter__(self) -> PeakMemory:
        self.most, self.ended = 0.0, threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while not self.ended.wait(1.0):
            self.most = max(self.most, _held())

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()
        self.gib = self.most / 2**30


def _held() -> float:
    """Bytes held by this process and all that it started."""
    mine = psutil.Process()
    total = 0.0
    for process in [mine, *mine.children(recursive=True)]:
        try:
            lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it has ended
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


def table(lines: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"{name:<52} {value:>10}" for name, value in lines)


def main(num_speed: int = 120, num_short: int = 50, num_long: int = 500) -> None:
    cpus = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "clips").mkdir()
        make_files(folder / "clips")
        for clip in (folder / "clips").glob("*.mp4"):
            clip.with_suffix(".txt").write_text("a face")
        job = job_of(folder)
        os.environ["RAY_ADDRESS"] = "local"
        join_cluster()
        plan = Plan.of(job, discover(job.data, str(folder / "store"), print).clips)
        pool_before = pool_rate(plan, num_speed, cpus)
        graph = graph_rate(plan, job, num_speed)
        pool_after = pool_rate(plan, num_speed, cpus)
        with PeakMemory() as short:
            graph_rate(plan, job, num_short)
        with PeakMemory() as long:
            graph_rate(plan, job, num_long)
    pool = (pool_before + pool_after) / 2
    print(
        table(
            [
                (f"cores {cpus}, 1280x720 25/s -> 832x480, 81 frames", ""),
                ("bare pool before, clips/s", f"{pool_before:.2f}"),
                ("Ray Data graph, clips/s", f"{graph:.2f}"),
                ("bare pool after, clips/s", f"{pool_after:.2f}"),
                ("graph / pool", f"{graph / pool:.2f}"),
                (f"peak memory over {num_short} clips, GiB", f"{short.gib:.2f}"),
                (f"peak memory over {num_long} clips, GiB", f"{long.gib:.2f}"),
            ]
        )
    )


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
