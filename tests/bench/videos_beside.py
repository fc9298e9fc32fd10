"""Throughput of training with and without videos being made beside it, on CPUs that it leaves free; as JSON.

    python -m tests.bench.videos_beside prepare gpu|cpu FOLDER       clips and their features, on any machine
    python -m tests.bench.videos_beside measure gpu|cpu FOLDER OUT.json

One run of the main job on drawn clips from a store, on a GPU or on one CPU core. The process that makes videos is held and let go again
by turns, so that nothing else differs: neither the run nor what the machine does at that hour.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import yaml

from ray_s2v.demo.clips import Recording, write_clip
from ray_s2v.demo.encoder_weights import save_encoders
from ray_s2v.demo.faces import random_look
from ray_s2v.demo.transformer_weights import CONFIG, save_checkpoint
from ray_s2v.model.transformer import WanS2VTransformer3DModel

ROOT = Path(__file__).parents[2]
FIRST = 30  # steps: by then the first checkpoint has been written
SETTLE_S, STRETCH_S, STRETCHES = 20, 10, 40
MAKER = "ray::_make"


@dataclass(frozen=True)
class Sizes:
    """Large enough that a step is the GPU's or the core's work, not the start of it."""

    layers: int
    heads: int
    head_dim: int
    width: int
    height: int
    frames: int
    batch: int
    cpus_for_videos: float

    @property
    def dim(self) -> int:
        return self.heads * self.head_dim


SIZES = {"gpu": Sizes(12, 8, 128, 480, 272, 48, 4, 8), "cpu": Sizes(8, 4, 64, 96, 96, 32, 1, 0.75)}


def make_clips(folder: Path, sizes: Sizes) -> None:
    """Eight talking clips, and encoders of the demo for them."""
    (folder / "clips").mkdir()
    for number in range(8):
        random = np.random.default_rng(number)
        recording = Recording(sizes.width, sizes.height, Fraction(25), 16000, sizes.frames / 16 + 1)
        write_clip(folder / f"clips/{number}.mp4", random_look(random), recording, random)
    (folder / "encoders").mkdir()
    save_encoders(folder / "encoders", [file.read_text() for file in (folder / "clips").glob("*.txt")])


def make_network(folder: Path, sizes: Sizes) -> None:
    """A network of random weights."""
    folder.mkdir()
    dim, layers = sizes.dim, sizes.layers
    changed = {"dim": dim, "ffn_dim": 4 * dim, "num_heads": sizes.heads, "num_layers": layers, "audio_inject_layers": [0, layers // 2]}
    torch.manual_seed(0)
    network = WanS2VTransformer3DModel(
        num_attention_heads=sizes.heads, attention_head_dim=sizes.head_dim, text_dim=CONFIG["text_dim"], freq_dim=CONFIG["freq_dim"],
        audio_dim=CONFIG["audio_dim"], audio_inject_layers=(0, layers // 2), ffn_dim=4 * dim, num_layers=layers,
    )  # fmt: skip
    save_checkpoint(network, CONFIG | changed, folder, 1)


def settings(folder: Path, sizes: Sizes, on_gpu: bool) -> dict[str, Any]:
    encoders = folder / "encoders"
    clip = str(folder / "clips/0.mp4")
    scene = {"name": "one", "picture": clip, "speech": clip, "prompt": "a face that speaks"}
    return {
        "run": {"folder": str(folder / "run")},
        "data": {
            "store": str(folder / "store"),
            "features": "store",
            "decode_cpus": 0.25,
            "sources": [
                {
                    "path": str(folder / "clips"),
                    "resolution": f"{sizes.width}x{sizes.height}",
                    "num_frames": sizes.frames,
                    "windows_per_clip": 1,
                }
            ],
        },
        "encoders": {
            "vae": {"path": str(encoders / "vae"), "gpus": 0},
            "speech": {"path": str(encoders / "wav2vec2-large-xlsr-53-english"), "gpus": 0},
            "text": {"path": str(encoders / "text_encoder"), "tokenizer": str(encoders / "tokenizer"), "gpus": 0},
        },
        "model": {"path": str(folder / "network"), "base_precision": "bf16" if on_gpu else "fp32"},
        "lora": {"rank": 16},
        "training": {
            "steps": 3000,
            "global_batch": sizes.batch,
            "batch_size": sizes.batch,
            "continuation": 0.0,
            "worker_cpus": 1,
            "worker_gpus": 1 if on_gpu else 0,
            "learning_rate": 1e-4,
        },
        "checkpoint": {"every": 10, "keep": 1},
        "sampling": {"size": f"{sizes.width}x{sizes.height}", "num_frames": sizes.frames, "steps": 1000},
        "validation": {"every": 10, "scenes": [scene], "place": "beside", "gpus": 0, "cpus": sizes.cpus_for_videos},
    }


def command(module: str, file: Path) -> list[str]:
    return [sys.executable, "-m", f"ray_s2v.{module}", str(file)]


def lines_of(run: Path) -> list[dict[str, Any]]:
    file = run / "steps.jsonl"
    return [json.loads(line) for line in file.read_text().split("\n")[:-1]] if file.exists() else []


def maker_of(driver: subprocess.Popen[bytes]) -> psutil.Process | None:
    """The process that makes videos, once it is there."""
    for process in psutil.Process(driver.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.cmdline()[:1] == [MAKER]:
                return process
    return None


def measured(run: Path, driver: subprocess.Popen[bytes]) -> list[dict[str, Any]]:
    """Of each stretch whether videos were made in it, and the seconds of the steps that began and ended in it."""
    while len(lines_of(run)) < FIRST or not (maker := maker_of(driver)):
        assert driver.poll() is None, "the run has ended"
        time.sleep(1)
    time.sleep(SETTLE_S)  # until the maker has loaded what it needs
    stretches = []
    for number in range(STRETCHES):
        is_made = number % 2 == 0
        (maker.resume if is_made else maker.suspend)()
        before = len(lines_of(run))
        used = sum(maker.cpu_times()[:2])
        time.sleep(STRETCH_S)
        steps = [line["step_s"] for line in lines_of(run)[before + 1 :]]
        used = sum(maker.cpu_times()[:2]) - used
        stretches.append({"videos": is_made, "makers_cpu_s": round(used, 1), "step_s": [round(step, 4) for step in steps]})
        print(json.dumps(stretches[-1]), flush=True)
    return stretches


def write_job(folder: Path, kind: str) -> Path:
    job = folder / "job.yaml"
    job.write_text(yaml.safe_dump(settings(folder, SIZES[kind], on_gpu=kind == "gpu")))
    return job


def prepare(kind: str, folder: Path) -> None:
    folder.mkdir()
    make_clips(folder, SIZES[kind])
    subprocess.run(command("encode", write_job(folder, kind)), cwd=ROOT, env={**os.environ, "RAY_ADDRESS": "local"}, check=True)


def measure(kind: str, folder: Path, out: Path) -> None:
    make_network(folder / "network", SIZES[kind])
    driver = subprocess.Popen(command("train", write_job(folder, kind)), cwd=ROOT, env={**os.environ, "RAY_ADDRESS": "local"})
    try:
        stretches = measured(folder / "run", driver)
    finally:
        driver.send_signal(signal.SIGINT)
        driver.wait(timeout=120)
    clips = SIZES[kind].batch
    rates = {made: [clips / np.mean(stretch["step_s"]) for stretch in stretches if stretch["videos"] is made] for made in (True, False)}
    drops = 1 - np.array(rates[True]) / np.array(rates[False])
    result = {
        "device": torch.cuda.get_device_name() if kind == "gpu" else f"{os.cpu_count()} CPU cores",
        "clips_per_s": {"with videos": float(np.mean(rates[True])), "without": float(np.mean(rates[False]))},
        "drop": float(drops.mean()),
        "standard_error": float(drops.std(ddof=1) / np.sqrt(len(drops))),
        "stretches": stretches,
    }
    out.write_text(json.dumps(result) + "\n")
    print({name: value for name, value in result.items() if name != "stretches"})


if __name__ == "__main__":
    task, kind, folder, *rest = sys.argv[1:]
    place = Path(folder).resolve()
    prepare(kind, place) if task == "prepare" else measure(kind, place, Path(rest[0]))
