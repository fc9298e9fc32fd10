"""Whether a source's options take a clip, and as what."""

from __future__ import annotations

from collections.abc import Iterable

from ray_s2v.config.source import Source
from ray_s2v.data.buckets import framed
from ray_s2v.data.facts import Facts
from ray_s2v.data.found import Found, Rejected, shown
from ray_s2v.schema import Clip, ClipError, Media


def judged(found: Found, facts: Facts, source: Source) -> Clip | Rejected:
    """The clip as the source's options make it, or why they refuse it."""
    try:
        return _clip(found, facts, source)
    except ClipError as reason:
        return Rejected(shown(found.video.place), str(reason))


def without_copies(clips: Iterable[Clip]) -> tuple[list[Clip], list[Rejected]]:
    """Of clips that hold the same pictures, sound and pose the first, and the others as rejected."""
    first: dict[tuple[str, ...], Clip] = {}
    copies = []
    for clip in clips:
        content = tuple(media.digest if media else "" for media in (clip.video, clip.audio, clip.pose))
        kept = first.setdefault(content, clip)
        if kept is not clip:
            copies.append(Rejected(shown(clip.video.place), f"the same content as {kept.clip_id}"))
    return list(first.values()), copies


def _clip(found: Found, facts: Facts, source: Source) -> Clip:
    """Raises ClipError with the reason where the source takes no such clip."""
    if facts.reason:
        raise ClipError(facts.reason)
    if facts.silence and not source.allow_zero_audio:
        raise ClipError(facts.silence)
    pictures = facts.video
    assert pictures, f"{found.name} has neither facts nor a reason"
    sound = None if facts.silence else facts.sound
    if sound and source.max_duration_seconds is not None and sound.end_s > source.max_duration_seconds:
        raise ClipError(f"too long: {sound.end_s:.1f} s of sound, max_duration_seconds is {source.max_duration_seconds:g}")
    name = source.called()
    clip_id = f"{name}/{found.name}"
    bucket, scaled_width, scaled_height = framed(pictures.width, pictures.height, pictures.num_frames, source, clip_id)
    return Clip(
        clip_id=clip_id,
        source=name,
        video=Media(found.video.place, facts.video_digest),
        audio=Media(found.audio.place, facts.audio_digest) if found.audio and sound else None,
        pose=Media(found.pose.place, facts.pose_digest) if found.pose else None,
        captions=facts.captions if found.words is None else found.words,
        num_frames=pictures.num_frames,
        audio_s=sound.end_s if sound else 0.0,
        bucket=bucket,
        scaled_width=scaled_width,
        scaled_height=scaled_height,
    )
