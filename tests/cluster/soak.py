"""A long training on this machine in which something is killed every minute; a log, and a table of what was lost (nothing).

    python -m tests.cluster.soak FOLDER --minutes 60 [--seed 0]

The demo's job with encoders beside training. Each kill is of a random kind: a training worker, an encoder actor, a decoding task, or the
driver, whose command is then given again. When the time is up the run is stopped by Ctrl-C and, by the same command, brought to the end
of its epoch. FOLDER gets soak.jsonl, a line for each kill and its recovery, said.log, what the runs said, table.md, and the run itself.
Exits with 1 if a clip is double or missing, or if the run did not go on.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from ray_s2v.config.job import Demo
from ray_s2v.demo import prepare_demo
from ray_s2v.training.json_lines import open_lines
from tests.cluster.conftest import JOB, ROOT, demo_places, records
from tests.cluster.faults import DECODING_TASK, ENCODER, TRAINING_WORKER, found, kill, repeated, surviving

EVERY_S = 60
PATIENCE_S = 300  # to the first step after a kill
EPOCH, CLIPS = 6, 24  # steps, and clips in them, of the demo
CHECKPOINT_EVERY = 6
ENDLESS = 6000  # steps; more than an hour holds
KINDS = {"training worker": TRAINING_WORKER, "encoder actor": ENCODER, "decoding task": DECODING_TASK}
GROUPS = {
    **KINDS,
    "controller": "ray::TrainController",
    "data of the run": "ray::SplitCoordinator",
    "raylet": "raylet",
    "GCS": "gcs_server",
    "dashboard and agents": ("dashboard", "ray-dashboard", "runtime_env", "ray::DashboardAgent", "ray::RuntimeEnvAgent", "log_monitor"),
}


@dataclass(frozen=True)
class Kill:
    """One death and what followed."""

    at_s: float  # since the soak's beginning
    kind: str
    step: int  # the last that was done before
    recovery_s: float  # to the next step done
    went_back: int  # steps that had to be done again
    left_behind: int  # of the driver's processes, a minute after its death
    memory_mib: dict[str, float]  # before the kill, of the largest process of each group


class Soak:
    """A run and its driver, whichever is the present one."""

    def __init__(self, folder: Path) -> None:
        prepare_demo(Demo(folder=str(folder / "demo")))
        self.folder, self.run = folder, folder / "run"
        self.log = (folder / "said.log").open("a")
        self.driver = self.start(ENDLESS)

    def start(self, steps: int) -> subprocess.Popen[bytes]:
        settings = [
            f"training.steps={steps}",
            "training.max_failures=100000",
            f"checkpoint.every={CHECKPOINT_EVERY}",
            "data.features=stream",
        ]
        return subprocess.Popen(
            [sys.executable, "-m", "ray_s2v.train", str(JOB), *demo_places(self.folder / "demo"), *settings, f"run.folder={self.run}"],
            cwd=ROOT,
            env={**os.environ, "RAY_ADDRESS": "local"},
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )

    def wait_for_lines(self, count: int) -> list[dict[str, Any]]:
        """The lines of all steps, once there are so many."""
        deadline = time.monotonic() + PATIENCE_S
        while len(lines := records(self.run)) < count:
            assert self.driver.poll() is None, f"the driver ended with {self.driver.returncode}"
            assert time.monotonic() < deadline, f"no step in {PATIENCE_S} s"
            time.sleep(0.1)
        return lines

    def kill_one(self, chance: random.Random) -> tuple[str, int]:
        """What was killed of what is there, and how many of the driver's processes outlived it by a minute."""
        kinds = {kind: there for kind, title in KINDS.items() if (there := found(self.driver.pid, title))}
        kind = chance.choice([*kinds, "driver"])
        if kind != "driver":
            kill(chance.choice(kinds[kind]))
            return kind, 0
        below = psutil.Process(self.driver.pid).children(recursive=True)
        self.driver.kill()
        self.driver.wait()
        self.driver = self.start(ENDLESS)
        left = psutil.wait_procs(below, timeout=60)[1]
        for process in left:
            process.kill()
        return kind, len(left)

    def finish(self) -> list[int]:
        """Stops the run, brings it to the end of its epoch, and returns both exit codes."""
        self.driver.send_signal(signal.SIGINT)
        stopped = self.driver.wait(120)
        steps = -(-(max(surviving(self.run)) + 1) // EPOCH) * EPOCH
        self.driver = self.start(steps)
        return [stopped, self.driver.wait(PATIENCE_S)]


def memory(driver: int) -> dict[str, float]:
    """MiB of the largest process of each group, shared memory among them."""
    largest: dict[str, float] = {"driver": round(psutil.Process(driver).memory_info().rss / 2**20)}
    for process in psutil.Process(driver).children(recursive=True):
        try:
            title, mib = " ".join(process.cmdline()), round(process.memory_info().rss / 2**20)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
        group = next((name for name, begins in GROUPS.items() if _is(process, title, begins)), "others of Ray")
        largest[group] = max(mib, largest.get(group, 0))
    return largest


def _is(process: psutil.Process, title: str, begins: str | tuple[str, ...]) -> bool:
    names = (begins,) if isinstance(begins, str) else begins
    return title.startswith(names) or any(name in title.split(" --")[0] for name in names)


def double_and_missing(run: Path) -> tuple[int, int]:
    """Clips that an epoch of the surviving history has twice, and that it lacks; every visit of the demo's epochs is of another clip."""
    steps = surviving(run)
    double = missing = 0
    for first in range(0, max(steps) + 1, EPOCH):
        visits = Counter(clip for step in range(first, first + EPOCH) for clip in steps.get(step, {"clip_ids": []})["clip_ids"])
        double += sum(visits.values()) - len(visits)
        missing += CLIPS - len(visits)
    return double, missing


def table(soak: Soak, kills: list[Kill], codes: list[int], memory_in_the_end: dict[str, float]) -> str:
    double, missing = double_and_missing(soak.run)
    rows = ["| killed | times | s to the next step: median | longest | steps done again |", "|---|---|---|---|---|"]
    for kind in [*KINDS, "driver"]:
        of_kind = [one for one in kills if one.kind == kind]
        if of_kind:
            waits = sorted(one.recovery_s for one in of_kind)
            again = sum(one.went_back for one in of_kind)
            rows.append(f"| {kind} | {len(of_kind)} | {waits[len(waits) // 2]:.1f} | {waits[-1]:.1f} | {again} |")
    rows += ["", "| process | MiB at the start | in the end |", "|---|---|---|"]
    before = kills[0].memory_mib
    rows += [f"| {group} | {before.get(group, 0):.0f} | {mib:.0f} |" for group, mib in memory_in_the_end.items()]
    rows += [
        "",
        f"{len(kills)} kills, {len(kills)} recoveries; {len(surviving(soak.run))} steps, {len(repeated(soak.run))} done again; "
        f"clips double: {double}, missing: {missing}; processes left behind: {sum(one.left_behind for one in kills)}; "
        f"exit codes after Ctrl-C and in the end: {codes[0]}, {codes[1]}",
    ]
    return "\n".join(rows) + "\n"


def main(folder: Path, minutes: float, seed: int) -> int:
    folder.mkdir(parents=True)
    began, chance, kills = time.monotonic(), random.Random(seed), []
    soak, log = Soak(folder), open_lines(folder / "soak.jsonl")
    try:
        soak.wait_for_lines(3)
        while time.monotonic() - began < 60 * minutes:
            before, memory_before, killed_at = soak.wait_for_lines(1), memory(soak.driver.pid), time.monotonic()
            kind, left_behind = soak.kill_one(chance)
            lines = records(soak.run)  # one more may have been done before the death took effect
            after = soak.wait_for_lines(len(lines) + 1)
            recovery_s, went_back = time.monotonic() - killed_at, max(0, lines[-1]["step"] + 1 - after[len(lines)]["step"])
            kills.append(Kill(killed_at - began, kind, before[-1]["step"], recovery_s, went_back, left_behind, memory_before))
            log(asdict(kills[-1]))
            print(f"{kills[-1].at_s:.0f} s: {kind} killed after step {kills[-1].step}; next step after {recovery_s:.1f} s", flush=True)
            time.sleep(max(0.0, killed_at + EVERY_S * chance.uniform(0.5, 1.5) - time.monotonic()))
        in_the_end = memory(soak.driver.pid)
        codes = soak.finish()
    finally:
        if soak.driver.poll() is None:
            soak.driver.kill()
    text = table(soak, kills, codes, in_the_end)
    (folder / "table.md").write_text(text)
    print(text)
    return 0 if codes == [130, 0] and double_and_missing(soak.run) == (0, 0) else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    sys.exit(main(given.folder, given.minutes, given.seed))
