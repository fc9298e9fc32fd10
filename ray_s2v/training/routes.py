"""The job's TREAD routes on its network."""

from __future__ import annotations

from itertools import pairwise

from ray_s2v.config.job import Job
from ray_s2v.model.rope import bucket_tokens
from ray_s2v.model.tread import Route, kept_in_blocks
from ray_s2v.schema import FRAMES_PER_LATENT, LATENT_STRIDE, Bucket, ConfigError


def job_routes(job: Job, num_blocks: int) -> list[Route]:
    """In the order of their blocks. Raises ConfigError telling all that is wrong with them."""
    wrong, found = [], []
    for index, route in enumerate(job.tread.routes):
        name = f"tread.routes.{index}: blocks {route.start_layer_idx} to {route.end_layer_idx}"
        first, last = (i + num_blocks if i < 0 else i for i in (route.start_layer_idx, route.end_layer_idx))
        if not 0 <= first < num_blocks or not 0 <= last < num_blocks:
            wrong.append(f"{name}: the network has blocks 0 to {num_blocks - 1}, or {-num_blocks} to -1")
        elif first > last:
            wrong.append(f"{name}: the first must not come after the last")
        elif first == 0 or last == num_blocks - 1:
            wrong.append(f"{name}: the first and the last block see every token; give 1 to {num_blocks - 2} or some of them")
        else:
            found.append((Route(route.selection_ratio, first, last), name))
    found.sort(key=lambda one: one[0].first)
    wrong += [f"{after} overlap {before}" for (one, before), (other, after) in pairwise(found) if other.first <= one.last]
    if wrong:
        raise ConfigError("\n".join(wrong))
    return [route for route, _ in found]


def tokens_in_blocks(job: Job, bucket: Bucket, num_blocks: int) -> list[int]:
    """Tokens that each block sees of a worker's batch of the bucket, the longer kind of batch that the job has."""
    frames, per_frame = bucket.num_frames // FRAMES_PER_LATENT, bucket.height // LATENT_STRIDE // 2 * (bucket.width // LATENT_STRIDE // 2)
    whole = bucket_tokens(bucket, has_motion=job.training.continuation > 0)
    kept = kept_in_blocks(job_routes(job, num_blocks), per_frame, num_blocks)
    return [job.training.batch_size * (whole - frames * (per_frame - count)) for count in kept]
