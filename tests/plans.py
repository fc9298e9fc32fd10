"""Small jobs and clips to plan with."""

from collections.abc import Sequence
from typing import Any

from ray_s2v.config.job import Job
from ray_s2v.data.plan import Plan
from ray_s2v.schema import Bucket, Clip, Media, PlanRow

BUCKETS = [Bucket(832, 480, 80), Bucket(480, 832, 80), Bucket(832, 480, 48), Bucket(64, 64, 16), Bucket(64, 80, 4)]
NO_DROPOUT = {"text": 0.0, "audio": 0.0, "both": 0.0}


def job(
    slots: int = 4,
    seed: int = 0,
    continuation: float = 0.5,
    dropout: dict[str, float] | None = None,
    sources: Sequence[dict[str, Any]] = ({},),
    **training: Any,
) -> Job:
    """A job whose sources are called `clips` unless they say otherwise."""
    return Job.model_validate(
        {
            "run": {"folder": "run", "seed": seed},
            "data": {"sources": [{"path": "clips"} | source for source in sources]},
            "encoders": {"vae": {"path": "vae"}, "speech": {"path": "speech"}, "text": {"path": "text", "tokenizer": "text"}},
            "model": {"path": "model"},
            "training": {"steps": 1, "global_batch": slots, "continuation": continuation} | training,
            "dropout": dropout or {},
        }
    )


def clip(name: str, num_frames: int, bucket: Bucket, **changes: Any) -> Clip:
    """A clip of the source `clips` with its sound in it and no margin around its bucket's size."""
    video = Media(f"/data/{name}", f"digest of {name}")
    facts: dict[str, Any] = {
        "clip_id": name,
        "source": "clips",
        "video": video,
        "audio": video,
        "pose": None,
        "captions": ("a caption",),
        "num_frames": num_frames,
        "audio_s": num_frames / 16,
        "bucket": bucket,
        "scaled_width": bucket.width,
        "scaled_height": bucket.height,
    }
    return Clip(**facts | changes)


def many(count: int, num_frames: int, bucket: Bucket, **changes: Any) -> list[Clip]:
    prefix = changes.get("source", "clips")
    return [clip(f"{prefix}/{bucket}/{i:03}", num_frames, bucket, **changes) for i in range(count)]


def epoch_rows(plan: Plan, epoch: int) -> list[PlanRow]:
    length = plan.steps_per_epoch
    return list(plan.rows(epoch * length, (epoch + 1) * length))
