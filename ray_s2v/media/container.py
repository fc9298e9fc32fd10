"""Opening a media file, its tracks and its clock, with every way in which that can fail told as a reason."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.frame import Frame
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from ray_s2v.schema import ClipError
from ray_s2v.storage import READ_AHEAD, member_of, open_file, scheme_of

VIDEO_SUFFIXES = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v"}
AUDIO_SUFFIXES = {".wav", ".mp3", ".flac", ".ogg", ".m4a"}
# FFmpeg's names of what is opened, whatever the file is called. Playlists and session descriptions are left out: they would have it
# open other files, or the network. So are pictures and subtitles, which are no clips.
FORMATS = (
    "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h264,hevc,flv,asf,mxf,nut,ivf,gif,wav,w64,mp3,flac,ogg,aac,ac3,eac3,amr,aiff,au,"
    "caf,ape,wv,tta"
)
MAX_PIXELS = 1 << 26  # of a picture, twice those of 8K: a few bytes of a file can stand for gigabytes
MAX_CLIP_S = 4 * 3600  # a clock that runs further is broken, and its sound would not fit into memory
FIRST_STEP_BACK_S = Fraction(2)  # how much earlier to seek again where seeking landed late; doubled each time


@contextmanager
def open_media(place: str) -> Iterator[InputContainer]:
    """The opened file, wherever it lies, closed afterwards.

    What FFmpeg cannot open, demux or decode inside the block becomes a ClipError; a place that is not there, or may not be read, stays
    an OSError.
    """
    with open_file(place) as file:
        if not file.read(1):
            raise ClipError("the file is empty")
        file.seek(0)
        # FFmpeg reads a path faster than through Python.
        source = file if scheme_of(place) or member_of(place) else place
        try:
            options = {"format_whitelist": FORMATS, "max_pixels": str(MAX_PIXELS)}
            container = av.open(
                source, "r", options=options, buffer_size=READ_AHEAD, metadata_errors="replace"
            )  # old encodings do not matter
        except av.error.InvalidDataError as error:
            raise ClipError("not a media file, or its header is cut off") from error
        except av.error.ArgumentError as error:
            raise ClipError("not a media file of a kind that is read here") from error
        except av.error.FFmpegError as error:
            raise ClipError(f"cannot be opened: {error.strerror}") from error
        with container:
            try:
                yield container
            except av.error.DecoderNotFoundError as error:
                raise ClipError("pictures or sound in a codec that is not known") from error
            except av.error.ArgumentError as error:
                raise ClipError(f"damaged, or its pictures have more than {MAX_PIXELS} pixels") from error
            except av.error.FFmpegError as error:
                raise ClipError(f"damaged: {error.strerror}") from error


def video_stream(container: InputContainer) -> VideoStream:
    """The first picture track that is not a cover. Raises ClipError without one."""
    if not (streams := _pictures(container)):
        raise ClipError("no video stream")
    if (decoder := streams[0].codec_context) and not decoder.is_open:  # None of an unknown codec
        decoder.options = {"max_pixels": str(MAX_PIXELS)}
    return streams[0]


def has_pictures(place: str) -> bool:
    """Whether a file is a video, rather than sound, with or without a cover. Raises ClipError as open_media does."""
    with open_media(place) as container:
        return bool(_pictures(container))


def _pictures(container: InputContainer) -> list[VideoStream]:
    return [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]


def audio_stream(container: InputContainer) -> AudioStream:
    """The first sound track. Raises ClipError without one."""
    if not container.streams.audio:
        raise ClipError("no audio stream")
    return container.streams.audio[0]


def tick_of(timed: Frame | Packet | Stream) -> Fraction:
    """Seconds that one unit of its times lasts. Raises ClipError where the file does not say."""
    if not timed.time_base:
        raise ClipError("pictures or sound without a clock")
    return timed.time_base


def time_of(frame: Frame) -> Fraction:
    """Seconds on the file's clock at which a picture or a piece of sound begins. Raises ClipError where the file does not say."""
    if frame.pts is None:
        raise ClipError("pictures or sound without times")
    return frame.pts * tick_of(frame)


def seek_points(zero: Fraction, moment: Fraction) -> Iterator[Fraction | None]:
    """Where to seek so as to come upon something at or before `moment`, the nearest try first; None is not to seek at all."""
    step_back = Fraction(0)
    while moment - step_back > zero:
        yield moment - step_back
        step_back = max(2 * step_back, FIRST_STEP_BACK_S)
    yield None


def first_picture(place: str) -> VideoFrame:
    """The picture whose time is the clip's zero, for pictures and sound alike. Raises ClipError if none can be decoded."""
    with open_media(place) as container:
        for picture in container.decode(video_stream(container)):
            return picture
    raise ClipError("no picture can be decoded")
