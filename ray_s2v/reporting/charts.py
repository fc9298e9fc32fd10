"""The curves of a run: what its records are called where they are drawn."""

from __future__ import annotations

from typing import Any


def step_charts(record: dict[str, Any], on_gpus: bool) -> dict[str, float]:
    """The points that a step's record, training/loop.py's StepRecord, adds to the curves."""
    return {
        "train/loss": record["loss"],
        "train/learning_rate": record["learning_rate"],
        "train/gradient_norm": record["gradient_norm"],
        "train/clips_per_s": len(record["clip_ids"]) / record["step_s"],
        "train/wait_share": record["wait_s"] / record["step_s"],
        "train/unreadable_clips": len(record["unreadable"]),
        "system/gpu_memory_gib" if on_gpus else "system/worker_memory_gib": record["memory_gib"],
    }


def held_out_charts(record: dict[str, Any]) -> dict[str, float]:
    """The points of a held-out loss, training/held_out.py's HeldOut; level_1 is that with the least noise."""
    charts = {"held_out/loss": record["loss"]}
    if record["worse_without_sound"] is not None:
        charts["held_out/worse_without_sound"] = record["worse_without_sound"]
        charts["held_out/worse_with_other_sound"] = record["worse_with_other_sound"]
    return charts | {f"held_out/level_{level}": loss for level, loss in enumerate(record["by_level"], start=1)}
