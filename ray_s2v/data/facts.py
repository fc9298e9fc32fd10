"""What reading a clip's files tells, whatever a source makes of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from tempfile import NamedTemporaryFile
from typing import NamedTuple

from ray_s2v.data.captions import read_captions
from ray_s2v.data.found import Found, Part, shown, suffix_of
from ray_s2v.media.audio import SoundFacts, measure_audio
from ray_s2v.media.probe import SILENT_PEAK, VideoFacts, check_sound, probe_video
from ray_s2v.schema import ClipError, Media
from ray_s2v.storage import open_file, scheme_of

CHUNK = 1 << 20  # bytes read at a time


class Facts(NamedTuple):
    """What the files of a clip hold, or the reason why it cannot be used; all else is then blank."""

    reason: str = ""
    video: VideoFacts | None = None
    sound: SoundFacts | None = None
    silence: str = ""  # why there is no sound to hear; empty where there is, and where no file was to hold one
    captions: tuple[str, ...] = ()  # of the caption's file
    video_digest: str = ""  # blake2b of the whole file, 128 bits in hexadecimal
    audio_digest: str = ""
    pose_digest: str = ""


def examine(found: Found) -> Facts:
    """The facts of one clip. Every file is read once through; a remote one crosses the network once.

    Raises OSError where a file cannot be read: that tells nothing of the clip.
    """
    try:
        captions = read_captions(found.caption) if found.caption else ()
        with _at_hand(found.video) as video:
            pictures = probe_video(video.place)
            if found.audio is None:
                audio_digest, sound, silence = "", None, ""
            elif found.audio != found.video:
                with _at_hand(found.audio) as audio:
                    audio_digest, (sound, silence) = audio.digest, _sound(audio.place, video.place, pictures)
            else:
                audio_digest, (sound, silence) = video.digest, _sound(video.place, video.place, pictures)
        pose_digest = _pose_digest(found.pose) if found.pose else ""
    except ClipError as reason:
        return Facts(str(reason))
    return Facts("", pictures, sound, silence, captions, video.digest, audio_digest, pose_digest)


def _sound(audio: str, video: str, pictures: VideoFacts) -> tuple[SoundFacts | None, str]:
    """What the sound measures, and why there is none to hear. Raises ClipError for one that does not fit its pictures."""
    if audio == video and not pictures.has_audio:
        return None, "no audio stream"
    sound = measure_audio(audio, video)
    if sound.peak < SILENT_PEAK:
        return sound, "the sound is silent"
    check_sound(pictures, sound)
    return sound, ""


def _pose_digest(pose: Part) -> str:
    """The digest of a pose video. Raises ClipError for one that cannot be read."""
    with _at_hand(pose) as file:
        try:
            probe_video(file.place)
        except ClipError as reason:
            raise ClipError(f"the pose video {shown(pose.place)}: {reason}") from reason
    return file.digest


@contextmanager
def _at_hand(part: Part) -> Iterator[Media]:
    """The file as it can be read again and again, with its digest: a remote one as a copy that is gone afterwards."""
    digest = hashlib.blake2b(digest_size=16)
    size = 0
    with ExitStack() as files:
        copy = files.enter_context(NamedTemporaryFile(suffix=suffix_of(shown(part.place)))) if scheme_of(part.place) else None
        with open_file(part.place) as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
                size += len(chunk)
                if copy:
                    copy.write(chunk)
        if size != part.size:
            raise OSError(f"{shown(part.place)}: {size} bytes were read, and it had {part.size} when it was listed")
        if copy:
            copy.flush()
        yield Media(copy.name if copy else part.place, digest.hexdigest())
