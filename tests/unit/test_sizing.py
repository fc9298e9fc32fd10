"""How large the video of a picture is, and which part of the picture it shows."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ray_s2v.config.sampling import Sampling
from ray_s2v.validation.sizing import official_size, picture_of


@pytest.mark.parametrize(
    ("picture", "area", "video"),
    [((832, 480), 480 * 832, (832, 448)), ((832, 480), 704 * 1024, (832, 512))],  # of the official tool: wan_s2v section 8
)
def test_official_sizes(picture: tuple[int, int], area: int, video: tuple[int, int]) -> None:
    assert official_size(*picture, area) == video


@pytest.mark.parametrize("picture", [(64, 64), (100, 4000), (4000, 100), (1920, 1080), (1080, 1920), (333, 777)])
def test_official_sizes_fit(picture: tuple[int, int]) -> None:
    width, height = official_size(*picture, 480 * 832)
    assert width % 64 == height % 64 == 0
    assert 0 < width * height <= 480 * 832


def test_the_picture_covers_the_video_and_is_cut_at_its_centre(tmp_path: Path) -> None:
    """Three stripes, of which the middle one fills a square."""
    stripes = np.zeros((80, 240, 3), np.uint8)
    stripes[:, :80, 0], stripes[:, 80:160, 1], stripes[:, 160:, 2] = 255, 255, 255
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    picture = picture_of(str(tmp_path / "stripes.png"), Sampling(size="64x64"))
    assert picture.shape == (64, 64, 3)
    assert (picture[:, 4:-4] == (0, 255, 0)).all()
    whole = picture_of(str(tmp_path / "stripes.png"), Sampling(size="192x64", sizing="official"))
    assert whole.shape == (64, 192, 3)


def test_a_picture_is_shown_upright(tmp_path: Path) -> None:
    """A camera that was held sideways says so in the file."""
    lying = np.zeros((80, 80, 3), np.uint8)
    lying[:, :40] = 255  # after a quarter turn clockwise, the upper half
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(lying).save(tmp_path / "lying.png", exif=turned)
    upright = picture_of(str(tmp_path / "lying.png"), Sampling(size="64x64"))
    assert upright[:30].min() > 250
    assert upright[-30:].max() < 5
