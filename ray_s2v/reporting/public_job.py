"""A run's settings for everyone to see: what was trained and how, nothing of the machine, its files, or the words of captions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray_s2v.config.job import Job
from ray_s2v.location import find_place
from ray_s2v.schema import ConfigError

BASE = "Wan-AI/Wan2.2-S2V-14B"
PARTS = "Wan-AI/Wan2.1-T2V-14B-Diffusers"
DEMO = "demo-files"
# What is not named here stays out, so that a new setting with a path in it is not published by mistake.
SECTIONS = {
    "lora": {"rank", "alpha", "dropout", "targets", "layers"},
    "tread": {"routes"},
    "flow": {"shift"},
    "dropout": {"text", "audio", "both"},
    "training": {
        *("steps", "epochs", "global_batch", "batch_size", "workers", "worker_cpus", "worker_gpus", "continuation"),
        *("learning_rate", "warmup_steps", "weight_decay", "clip_grad_norm"),
    },
    "zero": {"stage", "offload", "hpz"},
    "held_out": {"every", "clips", "levels"},
    "sampling": {"size", "sizing", "num_frames", "init_first_frame", "solver", "steps", "shift", "guidance", "negative_prompt", "seed"},
    "checkpoint": {"every", "keep", "on_failure"},
}
SOURCE = {
    *("repeats", "weight", "is_eval", "resolution", "resolution_type", "aspect_rounding", "min_size", "max_size", "downsample_to"),
    *("crop", "aspect", "aspects", "num_frames", "min_frames", "max_frames", "bucket_strategy", "frame_interval"),
    *("window", "windows_per_clip", "allow_zero_audio", "max_duration_seconds", "duration_interval", "truncation_mode"),
}


def public_job(job: Job) -> Job:
    """The job with its settings of training; folders of models are the official repositories instead, those of clips placeholders.

    It runs as it is where videos are sampled, and trains when its clips are given. The demo's job stays one of the demo.
    """
    settings = job.model_dump()

    def encoder(name: str, official: str) -> dict[str, Any]:
        section = settings["encoders"][name]
        return {"path": _public_place(section["path"], job, official), "cpus": section["cpus"], "gpus": section["gpus"]}

    shown: dict[str, Any] = {name: {key: settings[name][key] for key in sorted(keys)} for name, keys in SECTIONS.items()}
    sources = enumerate(settings["data"]["sources"], start=1)
    shown |= {
        "run": {"folder": "runs/lora", "seed": job.run.seed},
        "data": {"sources": [{"path": f"clips-{n}"} | {key: source[key] for key in sorted(SOURCE)} for n, source in sources]},
        "encoders": {
            "vae": encoder("vae", f"{PARTS}/vae"),
            "speech": encoder("speech", f"{BASE}/wav2vec2-large-xlsr-53-english"),
            "text": encoder("text", f"{PARTS}/text_encoder")
            | {"tokenizer": _public_place(job.encoders.text.tokenizer, job, f"{PARTS}/tokenizer")},
        },
        "model": {"path": _public_place(job.model.path, job, BASE), "base_precision": job.model.base_precision},
    }
    if job.demo:
        shown["demo"] = {"folder": DEMO, "seed": job.demo.seed}
    return Job.model_validate(shown)


def base_model(job: Job) -> str | None:
    """The repository of the network that the adapter is for; none of the demo's, whose weights are random."""
    return None if job.demo else "/".join(public_job(job).model.path.split("/")[:2])


def _public_place(place: str, job: Job, official: str) -> str:
    """Of a model: the hub's name where it has one; what the demo has made, below its folder; else the official one."""
    if job.demo and (path := Path(place).absolute()).is_relative_to(folder := Path(job.demo.folder).absolute()):
        return f"{DEMO}/{path.relative_to(folder).as_posix()}"
    try:
        path_or_id, subfolder = find_place(place)
    except ConfigError:  # a folder of the machine that trained
        return official
    if Path(path_or_id).is_absolute():
        return official
    return f"{path_or_id}/{subfolder}" if subfolder else path_or_id
