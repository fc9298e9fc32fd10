"""`python -m ray_s2v.extract_audio IN OUT [--strip-audio]` writes the sound of videos as WAV files, in step with the pictures."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from ray_s2v.media.container import VIDEO_SUFFIXES
from ray_s2v.media.extract import write_wav, write_without_sound
from ray_s2v.media.probe import probe_video
from ray_s2v.schema import ClipError, ConfigError
from ray_s2v.storage import absolute, scheme_of

Output = tuple[Path, Callable[[str, Path], None]]  # a file, and what makes it of a video


def outputs_of(source: Path, target: Path, strip: bool) -> dict[Path, list[Output]]:
    """Every video with the files to be made of it. Raises ConfigError if there are no videos, or two of them would share a file."""
    if source.is_file():
        root, videos = source.parent, [source]
    else:
        root, videos = source, sorted(path for path in source.rglob("[!.]*") if path.is_file())
    outputs: dict[Path, list[Output]] = {}
    takes: dict[Path, Path] = {}
    for video in videos:
        if video.suffix.lower() not in VIDEO_SUFFIXES:
            continue
        copy = target / video.relative_to(root)
        wav = copy.with_suffix(".wav")
        if wav in takes:
            raise ConfigError(f"{takes[wav]} and {video} would both become {wav}; name one of them otherwise")
        takes[wav] = video
        outputs[video] = [(wav, write_wav), *([(copy, write_without_sound)] if strip else [])]
    if not outputs:
        raise ConfigError(f"no video in {source}: videos are called {', '.join(sorted(VIDEO_SUFFIXES))}")
    return outputs


def checked(source: str, target: str, strip: bool) -> tuple[Path, Path]:
    """Where to read and to write. Raises ConfigError for places that cannot be taken."""
    for place in (source, target):
        if scheme_of(place):
            raise ConfigError(f"{place}: only paths of this machine are read and written here")
    videos, written = Path(absolute(source)), Path(absolute(target))
    if not videos.exists():
        raise ConfigError(f"{source} is not there")
    if written.exists() and not written.is_dir():
        raise ConfigError(f"{target} is not a folder")
    if strip and (videos.resolve().is_relative_to(written.resolve()) or written.resolve().is_relative_to(videos.resolve())):
        raise ConfigError(f"--strip-audio never writes among the videos: neither of {source} and {target} may lie in the other")
    return videos, written


@contextmanager
def ctrl_c() -> Iterator[Event]:
    """Ctrl-C raises KeyboardInterrupt, and sets the event: raised while PyAV builds an error of its own, it is lost."""
    pressed = Event()

    def press(*_: object) -> None:
        pressed.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, press)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def extract(outputs: dict[Path, list[Output]], stop: Event) -> int:
    """Makes what is not there yet, says how much that was, and returns how many videos could not be read.

    Raises KeyboardInterrupt after the video at which the event is set.
    """
    num_written = num_kept = num_failed = 0
    for video, files in outputs.items():
        missing = [(file, write) for file, write in files if not file.is_file()]
        num_kept += len(files) - len(missing)
        try:
            if missing:
                probe_video(str(video))  # tells a file that is cut off
            for file, write in missing:
                write(str(video), file)
                num_written += 1
        except (ClipError, OSError) as reason:
            num_failed += 1
            sys.stderr.write(f"{video}: {reason}\n")
        if stop.is_set():
            raise KeyboardInterrupt
    sys.stdout.write(f"{num_written} files written, {num_kept} were there already, {num_failed} of {len(outputs)} videos failed\n")
    return num_failed


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 0 all done, 1 some videos failed, 2 a mistake of the user's, 130 Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m ray_s2v.extract_audio",
        description="Writes a 16 kHz mono WAV for every video below IN to the same place below OUT. What is there already is kept.",
    )
    parser.add_argument("source", metavar="IN", help="a folder of videos, searched recursively, or one video")
    parser.add_argument("target", metavar="OUT", help="a folder")
    parser.add_argument("--strip-audio", action="store_true", help="also copy the videos without their sound below OUT, never in place")
    given = parser.parse_args(arguments)
    try:
        outputs = outputs_of(*checked(given.source, given.target, given.strip_audio), given.strip_audio)
        with ctrl_c() as stop:
            return 1 if extract(outputs, stop) else 0
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped; the same command goes on with what is missing\n")
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
