"""A picture of faces that speak as a run has learnt, each above what was filmed: `python -m tests.learning.picture RUN OUT.png`."""

import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from tests.learning.conftest import SIDE, write_clips
from tests.learning.test_learns_to_speak import LOST, pictures_of, told

FRAMES = range(4, 36, 2)  # of a video's: of its first clip and of the two after it
NUMBERS = (1000, 1002, 1004)  # of clips that are not trained on


def main() -> None:
    run, out = Path(sys.argv[1]), Path(sys.argv[2])
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for number in NUMBERS:
            (talking,) = write_clips(Path(folder) / str(number), range(number, number + 1))
            learnt, filmed = told(run, talking, Path(folder) / f"{number}.mp4"), pictures_of(talking.path)[LOST:]
            rows += [np.concatenate([pictures[frame] for frame in FRAMES], axis=1) for pictures in (learnt, filmed)]
            rows.append(np.full((SIDE // 8, *rows[-1].shape[1:]), 255, np.uint8))
    Image.fromarray(np.concatenate(rows[:-1])).quantize(128).save(out, optimize=True)


if __name__ == "__main__":
    main()
