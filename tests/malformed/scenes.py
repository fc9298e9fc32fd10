"""Pictures, speech and libraries of prompts: what `sample` and the videos of a run are made from."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ray_s2v.config.job import Job
from ray_s2v.config.sampling import Sampling
from ray_s2v.config.validation import Scene
from ray_s2v.media.stored_sound import stored_sound
from ray_s2v.validation.scenes import with_scenes
from ray_s2v.validation.sizing import picture_of
from ray_s2v.validation.video import check_scene
from tests.jobs import changed
from tests.malformed.entry import Entry, Outcome
from tests.malformed.job_files import _laughs
from tests.malformed.media import SOUNDS, flipped, png, wav
from tests.malformed.sources import clip_bytes
from tests.malformed.special import IN_PLACE_OF_A_FILE


def _picture(kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((64, 64, 3), 99, np.uint8)).save(file, kind, **options)
    return file.getvalue()


PICTURES: dict[str, Callable[[], bytes]] = {
    "noise": lambda: random.Random(0).randbytes(999), "text": lambda: b"a picture\n" * 99, "16000 by 16000": lambda: png(16_000, 16_000),
    "one pixel": lambda: png(1, 1), "sixty thousand by one": lambda: png(60_000, 1), "half a PNG": lambda: _picture()[:90], "half a JPEG": lambda: _picture("JPEG")[:400],
    "half a WEBP": lambda: _picture("WEBP")[:60], "a size beyond all": lambda: _picture()[:16] + b"\x7f\xff\xff\xff" * 2 + _picture()[24:],
    "PostScript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(RAN) (w) file closefile\nshowpage\n",
    "a drawing": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><image href="http://127.0.0.1:9/"/></svg>', "a PDF": lambda: b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n",
    "a playlist": lambda: b"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.5,\nspeech.wav\n#EXT-X-ENDLIST\n", "a turn that is none": lambda: _picture("JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x63\0\0\0\0\0\0"),
    "facts that are cut off": lambda: _picture("JPEG", exif=b"Exif\0\0MM\0*\0\0\0\xff"), "a sound": wav,
    **{f"{kind}, bytes changed {seed}": partial(lambda kind, seed: flipped(_picture(kind), seed, 3), kind, seed) for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP") for seed in range(3)},
}  # fmt: skip
LIBRARIES = {
    "a list": "- a face\n", "a prompt that is a number": "one: 3\n", "an empty prompt": "one: ' '\n", "a name that climbs out": "../x: a face\n", "a name with a null": '"a\\0b": a face\n',
    "a name of 300 letters": f"{'x' * 300}: a face\n", "a tag": "one: !!python/object/apply:os.system ['touch RAN']\n", "a billion laughs": _laughs(10, 10),
    "a number as a name": "3: a face\n", "an unknown setting": "one: {prompt: a face, pitcure: x.png}\n", "empty": "",
}  # fmt: skip


def _put(folder: Path, picture: Callable[[], bytes], speech: Callable[[], bytes]) -> None:
    (folder / "picture.png").write_bytes(picture())
    (folder / "speech.wav").write_bytes(speech())


def _put_special(folder: Path, name: str, maker: Callable[[Path], object]) -> None:
    _put(folder, _picture, wav)
    (folder / name).unlink()
    maker(folder / name)


def _read(given: Path) -> Outcome:
    picture, speech = str(given / "picture.png"), str(given / "speech.wav")
    check_scene(Scene(name="x", picture=picture, speech=speech, prompt="a face"))
    height, width, _ = picture_of(picture, Sampling(size="64x64", sizing="official")).shape
    sound, rate = stored_sound(speech, "")
    return Outcome("taken", f"a picture made {width}x{height}, {sound.shape[1] / rate:.1f} s of sound")


def _put_library(folder: Path, text: str) -> None:
    _put(folder, _picture, wav)
    (folder / "library.yaml").write_text(text)


def _read_library(given: Path) -> Outcome:
    common = {"picture": str(given / "picture.png"), "speech": str(given / "speech.wav"), "prompt_library": str(given / "library.yaml")}
    with_scenes(Job.model_validate(changed({"validation": {"every": 100, **common}})))
    return Outcome("taken")


def entries() -> Iterator[Entry]:
    for title, picture in PICTURES.items():
        yield Entry("picture", title, partial(_put, picture=picture, speech=wav), _read)
    for title, speech in {**SOUNDS, "of a video without end": lambda: clip_bytes()[:-500]}.items():
        yield Entry("speech", title, partial(_put, picture=_picture, speech=speech), _read)
    for title, maker in IN_PLACE_OF_A_FILE.items():
        for name in ("picture.png", "speech.wav"):
            yield Entry(name.partition(".")[0], f"it is {title}", partial(_put_special, name=name, maker=maker), _read)
    for title, text in LIBRARIES.items():
        yield Entry("prompt library", title, partial(_put_library, text=text), _read_library)
