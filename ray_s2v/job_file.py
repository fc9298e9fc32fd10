"""Job files: YAML with overrides to a Job and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from ray_s2v.config.job import Job
from ray_s2v.settings_file import override, read_settings, told, validated

A_JOB = f"a job is a mapping of sections: {', '.join(Job.model_fields)}"
# Names that other trainers use for a thing that is called or computed otherwise here.
HINTS = {
    "accumulation": "follows from global_batch / (workers * batch_size)",
    "gradient_accumulation_steps": "follows from global_batch / (workers * batch_size)",
    "train_batch_size": "here it is batch_size (of a worker) and global_batch (of a step)",
    "max_train_steps": "here it is training.steps",
    "validation_steps": "here it is validation.every",
    "user_prompt_library": "here it is validation.prompt_library",
    "report_to": "here it is tracking.wandb and tracking.tensorboard",
    "push_to_hub": "here it is hub.repo_id",
    "hub_model_id": "here it is hub.repo_id",
    "num_train_epochs": "here it is training.epochs",
    "lora_rank": "here it is lora.rank",
    "lora_alpha": "here it is lora.alpha",
    "instance_data_dir": "here it is path",
    "caption_strategy": "here it is caption",
    "probability": "here it is weight",
    "crop_style": "here it is crop",
    "crop_aspect": "here it is aspect",
    "crop_aspect_buckets": "here it is aspects",
    "minimum_image_size": "here it is min_size",
    "maximum_image_size": "here it is max_size",
    "target_downsample_size": "here it is downsample_to",
    "pose": "here it is pose_path of a source; zeros without",
}


def load_job(path: str, overrides: Sequence[str] = ()) -> Job:
    """The job of a YAML file with `section.key=value` overrides. Raises ConfigError listing every mistake."""
    settings = read_settings(path, A_JOB)
    mistakes = [mistake for text in overrides if (mistake := override(settings, text))]
    job, wrong = job_of(settings)
    if mistakes or job is None:
        raise told(path, mistakes + wrong)
    return job


def job_of(settings: dict[Any, Any]) -> tuple[Job | None, list[str]]:
    """The settings as a job, or every mistake in words."""
    return validated(Job, settings, HINTS)


def dump_job(job: Job) -> str:
    """The job as YAML, every default written out."""
    return yaml.safe_dump(job.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
