"""What is said of a clip, from the file beside it."""

from __future__ import annotations

import json
import posixpath

from ray_s2v.data.found import Part, shown, suffix_of
from ray_s2v.schema import ClipError
from ray_s2v.storage import open_file

MAX_BYTES = 1 << 20  # of a caption's file; a larger one is something else


def read_captions(file: Part) -> tuple[str, ...]:
    """The captions in a file, of which each time one is taken: the lines of a .txt, the key "caption" of a .json (one or a list).

    Raises ClipError if it holds none or is not UTF-8, OSError if it cannot be read.
    """
    name = posixpath.basename(shown(file.place))
    if file.size > MAX_BYTES:
        raise ClipError(f"the caption {name} has {file.size} bytes, more than {MAX_BYTES}")
    with open_file(file.place) as opened:
        data = opened.read()
    try:
        text = data.decode("utf-8-sig")
        lines = _of_json(text, name) if suffix_of(name) == ".json" else text.splitlines()
        "".join(lines).encode()  # JSON can spell half a character
    except UnicodeError as error:
        raise ClipError(f"the caption {name} is not UTF-8") from error
    captions = tuple(said for line in lines if (said := line.strip()))
    if not captions:
        raise ClipError(f"the caption {name} is empty")
    return captions


def _of_json(text: str, name: str) -> list[str]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ClipError(f"the caption {name} is not JSON") from error
    if not isinstance(value, dict) or "caption" not in value:
        raise ClipError(f'the caption {name} has no key "caption"')
    caption = value["caption"]
    captions = caption if isinstance(caption, list) else [caption]
    if not all(isinstance(one, str) for one in captions):
        raise ClipError(f'"caption" in {name} is no text')
    return captions
