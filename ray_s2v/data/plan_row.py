"""A row: one showing of one clip, with all that fetching, encoding and training must know of it."""

from __future__ import annotations

from ray_s2v.data.window import Window
from ray_s2v.schema import Clip, Kind, Media, PlanRow

NOTHING = Media("", "")


def plan_row(
    step: int, slot: int, clip: Clip, kind: Kind, window: Window, caption: str, drop_audio: bool, noise_level: float, noise_seed: int
) -> PlanRow:
    """The row of a window of a clip; a clip without sound is always shown without."""
    audio, pose = clip.audio or NOTHING, clip.pose or NOTHING
    return PlanRow(
        step=step,
        slot=slot,
        clip_id=clip.clip_id,
        video=clip.video.place,
        video_digest=clip.video.digest,
        audio=audio.place,
        audio_digest=audio.digest,
        pose=pose.place,
        pose_digest=pose.digest,
        caption=caption,
        kind=kind,
        scaled_width=clip.scaled_width,
        scaled_height=clip.scaled_height,
        left=window.left,
        top=window.top,
        width=clip.bucket.width,
        height=clip.bucket.height,
        clip_frames=clip.num_frames,
        start_frame=window.start_frame,
        num_frames=clip.bucket.num_frames,
        reference_frame=window.reference_frame,
        heard_start=window.heard_start,
        heard_frames=window.heard_frames,
        drop_audio=drop_audio or clip.audio is None,
        noise_level=noise_level,
        noise_seed=noise_seed,
    )
