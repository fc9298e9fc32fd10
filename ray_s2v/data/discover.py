"""Folders of clips to the manifest: usable clips with their buckets, and the others with the reason."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ray

from ray_s2v.config.job import Data
from ray_s2v.config.source import Source
from ray_s2v.data.buckets import bucket_of
from ray_s2v.media.probe import probe
from ray_s2v.schema import Clip, ClipError, DataError

VIDEO_SUFFIXES = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v"}


@dataclass(frozen=True)
class Rejected:
    """A clip that cannot be used, and why."""

    path: str
    reason: str


def find_videos(source: Source) -> list[Path]:
    """All video files below a source's folder, sorted; those whose names begin with a dot are other programs' own."""
    found = (path for path in Path(source.path).rglob("[!.]*") if path.suffix.lower() in VIDEO_SUFFIXES)
    return sorted(path for path in found if path.is_file())


def captions_beside(video: Path) -> tuple[str, ...]:
    """The lines of the caption file beside a video; an epoch takes one of them. ClipError if there are none."""
    file = video.with_suffix(".txt")
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except FileNotFoundError as error:
        raise ClipError(f"no caption: {file.name} is not there") from error
    except UnicodeDecodeError as error:
        raise ClipError(f"the caption {file.name} is not UTF-8") from error
    except OSError as error:
        raise ClipError(f"the caption {file.name} cannot be read: {error.strerror}") from error
    if not any(lines):
        raise ClipError(f"the caption {file.name} is empty")
    return tuple(line for line in lines if line)


def examine(video: Path, source: Source) -> Clip | Rejected:
    """The manifest's line of one video, or why it cannot be used."""
    try:
        captions = captions_beside(video)
        found = probe(str(video))
        if found.num_frames < source.num_frames:
            raise ClipError(f"too short: {found.num_frames} frames at 16 a second, num_frames is {source.num_frames}")
        bucket = bucket_of(found.width, found.height, source)
    except (ClipError, OSError) as reason:
        return Rejected(str(video), str(reason))
    root = Path(source.path)
    return Clip(f"{root.name}/{video.relative_to(root).as_posix()}", str(video), captions, found.num_frames, bucket)


def discover(data: Data) -> tuple[list[Clip], list[Rejected]]:
    """Every clip of every source, examined on all CPUs of the cluster; order and ids depend on the files alone.

    Raises DataError for clips that share an id.
    """
    examine_batch = _examine_batch.options(num_cpus=data.decode_cpus)
    pending = [examine_batch.remote(batch, source) for source in data.sources for batch in _batches(find_videos(source), 8)]
    found = [outcome for outcomes in ray.get(pending) for outcome in outcomes]
    clips = [outcome for outcome in found if isinstance(outcome, Clip)]
    rejected = [outcome for outcome in found if isinstance(outcome, Rejected)]
    twice = sorted(name for name, count in Counter(clip.clip_id for clip in clips).items() if count > 1)
    if twice:
        raise DataError(
            f"data.sources: {len(twice)} ids would stand for two clips, e.g. {twice[0]}: give each folder once, by its own name"
        )
    return clips, rejected


def check_rejected(clips: list[Clip], rejected: list[Rejected], max_rejected: float) -> None:
    """Raises DataError if no clip is usable, or more than the allowed share was rejected."""
    listed = "\n".join(f"  {r.path}: {r.reason}" for r in rejected[:20]) + ("\n  ..." if len(rejected) > 20 else "")
    if not clips:
        raise DataError("no usable clip" + (f"; {len(rejected)} were rejected:\n{listed}" if rejected else " in any of data.sources"))
    share = len(rejected) / (len(clips) + len(rejected))
    if share > max_rejected:
        raise DataError(f"{len(rejected)} clips ({share:.1%}) were rejected, data.max_rejected is {max_rejected:.1%}:\n{listed}")


def rejected_csv(rejected: list[Rejected]) -> str:
    """The rejected clips as CSV: path, reason."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerows([("path", "reason"), *((r.path, r.reason) for r in rejected)])
    return file.getvalue()


def _batches(videos: list[Path], size: int) -> Iterator[list[Path]]:
    return (videos[i : i + size] for i in range(0, len(videos), size))


@ray.remote
def _examine_batch(videos: list[Path], source: Source) -> list[Clip | Rejected]:
    return [examine(video, source) for video in videos]
