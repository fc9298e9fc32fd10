"""Small clips, and sources that name them: as folders, tars and manifests."""

import io
import tarfile
import wave
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_s2v.config.source import Source
from ray_s2v.media.write import write_video
from ray_s2v.schema import SAMPLE_RATE

NUM_FRAMES = 24


def source(path: Path | str, **changes: Any) -> Source:
    return Source.model_validate({"path": str(path), "resolution": "64x64", "num_frames": 16} | changes)


def tone(num_samples: int, hertz: float = 440, peak: float = 0.5) -> NDArray[np.float32]:
    return (peak * np.sin(2 * np.pi * hertz * np.arange(num_samples) / SAMPLE_RATE)).astype(np.float32)


def write_clip(
    path: Path, num_frames: int = NUM_FRAMES, width: int = 64, height: int = 64, seed: int = 0, sound: NDArray[np.float32] | None = None
) -> None:
    """Coloured squares at 16 pictures a second and a tone as long as they, or the sound that is given; an empty one is none."""
    pictures = np.random.default_rng(seed).integers(256, size=(num_frames, height // 16, width // 16, 3), dtype=np.uint8)
    heard = tone(num_frames * SAMPLE_RATE // 16) if sound is None else sound
    path.parent.mkdir(parents=True, exist_ok=True)
    large = (np.kron(picture, np.ones((16, 16, 1), np.uint8)) for picture in pictures)
    write_video(path, large, Fraction(16), heard if len(heard) else None, preset="ultrafast")


def write_wav(path: Path, sound: NDArray[np.float32]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(np.round(sound * 32767).astype("<i2").tobytes())


def touch(folder: Path, names: Iterable[str]) -> None:
    """Files without content."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def write_tar(path: Path, members: Iterable[tuple[str | tarfile.TarInfo, bytes]]) -> None:
    """A tar of files in this order; a whole header may stand for a name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for member, content in members:
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def members_of(folder: Path) -> list[tuple[str, bytes]]:
    """The files of a folder as members of a tar."""
    return [(path.relative_to(folder).as_posix(), path.read_bytes()) for path in sorted(folder.rglob("*")) if path.is_file()]
