"""Looks at a clip while it is sampled."""

from pathlib import Path

import av
import pytest
import torch
from safetensors.torch import save_file

from ray_s2v.config.sampling import Previews
from ray_s2v.encoders.tiny_decoder import TinyDecoder
from ray_s2v.schema import ConfigError
from ray_s2v.validation.preview import Previewer, find_decoder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("taew") / "taew2_1.safetensors"
    torch.manual_seed(0)
    save_file(TinyDecoder().state_dict(), file)
    return file


def test_every_few_steps_and_not_after_the_last(weights: Path, tmp_path: Path) -> None:
    written: list[Path] = []
    previewer = Previewer(Previews(every=2, decoder=str(weights.parent)), 4, torch.device("cpu"), written.append)
    latents = torch.randn(16, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    for clip in range(2):
        for step in range(1, 5):
            previewer.look(tmp_path / "face", clip, step, latents)
    assert written == [tmp_path / f"face/clip_{clip}_step_002.mp4" for clip in (1, 2)]
    with av.open(str(written[0])) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    expected = ((previewer.decoder.decode(latents) + 1) * 127.5).numpy()
    assert len(pictures) == len(expected) == 9
    assert all(abs(picture.astype(float) - frame).mean() < 8 for picture, frame in zip(pictures, expected, strict=True))


def test_a_place_without_the_decoder_is_refused(weights: Path, tmp_path: Path) -> None:
    assert find_decoder(str(weights)) == weights
    with pytest.raises(ConfigError, match=r"holds neither taew2_1.safetensors nor taew2_1.pth"):
        find_decoder(str(tmp_path))
