"""A video as an animated GIF, for what shows pictures but no videos."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import av
from PIL import Image

EVERY = 2  # pictures of the video
MAX_WIDTH = 416  # pixels
MAX_PICTURES = 160  # 20 s of a video of 16 pictures a second: they are held in memory


def animated_gif(path: Path) -> tuple[bytes, int, int]:
    """The GIF of the video's beginning, its width and height. Without sound, in 256 colours; raises av.error.FFmpegError and OSError."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        assert stream.average_rate
        picture_ms = float(1000 * EVERY / stream.average_rate)
        width = min(stream.width, MAX_WIDTH)
        height = round(stream.height * width / stream.width)
        pictures: list[Image.Image] = []
        for place, frame in enumerate(container.decode(stream)):
            if place % EVERY == 0:
                pictures.append(frame.to_image(width=width, height=height).quantize())
            if len(pictures) == MAX_PICTURES:
                break
    gif = BytesIO()
    pictures[0].save(gif, format="GIF", save_all=True, append_images=pictures[1:], duration=picture_ms, loop=0)
    return gif.getvalue(), width, height
