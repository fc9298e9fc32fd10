"""The small decoder: the original's frames, one latent at a time; which frames hang on which latents; and only its own weights.

tests/golden/data/tiny_decoder.safetensors was made by taehv.py of github.com/madebyollin/taehv (commit 1f14a568) with the widths
12, 10, 8, 6 and random weights, torch.manual_seed(7): `decoder.*`, `in.latents` (16, 3, 2, 3), `out.video` (9, 3, 16, 24) in [0, 1].
"""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ray_s2v.encoders.tiny_decoder import WIDTHS, TinyDecoder, load_tiny_decoder
from ray_s2v.schema import ConfigError

GOLDEN = Path(__file__).parents[1] / "golden/data/tiny_decoder.safetensors"
NARROW = (12, 10, 8, 6)


@pytest.fixture(scope="module")
def case() -> dict[str, Tensor]:
    return load_file(GOLDEN)


@pytest.fixture
def weights(case: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in case.items() if name.startswith("decoder.")}


@pytest.fixture
def decoder(weights: dict[str, Tensor], tmp_path: Path) -> TinyDecoder:
    save_file(weights, tmp_path / "weights.safetensors")
    return load_tiny_decoder(tmp_path / "weights.safetensors", widths=NARROW)


def test_frames_are_those_of_the_original(decoder: TinyDecoder, case: dict[str, Tensor]) -> None:
    expected = case["out.video"].permute(0, 2, 3, 1) * 2 - 1
    assert expected.std() > 0.3
    assert (expected.abs() == 1).float().mean() > 0.01  # some are cut off
    torch.testing.assert_close(decoder.decode(case["in.latents"]), expected, atol=1e-5, rtol=0.0)


@pytest.mark.parametrize("num_latents", [1, 2, 5])
def test_as_many_frames_as_the_vae_gives(decoder: TinyDecoder, num_latents: int) -> None:
    video = decoder.decode(torch.randn(16, num_latents, 3, 5, generator=torch.Generator().manual_seed(0)))
    assert video.shape == (4 * num_latents - 3, 24, 40, 3)
    assert video.dtype == torch.float32
    assert video.abs().max() <= 1


def test_no_frame_hangs_on_latents_after_its_own(decoder: TinyDecoder, case: dict[str, Tensor]) -> None:
    """Latent k ends at frame 4k, and the next ones see what was before."""
    whole = decoder.decode(case["in.latents"])
    for count in (1, 2):
        torch.testing.assert_close(decoder.decode(case["in.latents"][:, :count]), whole[: 4 * count - 3], atol=1e-6, rtol=0.0)
    other = case["in.latents"].clone()
    other[:, 0] += 1
    assert (decoder.decode(other)[1:5] - whole[1:5]).abs().max() > 1e-3


def test_latents_far_out_are_squashed(decoder: TinyDecoder, case: dict[str, Tensor]) -> None:
    far = torch.sign(case["in.latents"]) * 1e3
    torch.testing.assert_close(decoder.decode(far), decoder.decode(far * 10))


def test_published_names_and_shapes() -> None:
    """As taehv.py gives them for taew2_1.pth: 1 + 9 x 3 convolutions with a bias and the last, 3 + 3 without."""
    shapes = {name: tuple(tensor.shape) for name, tensor in TinyDecoder(WIDTHS).state_dict().items()}
    assert len(shapes) == 2 * (1 + 9 * 3 + 1) + 6
    for name, shape in {
        "decoder.1.weight": (256, 16, 3, 3),
        "decoder.3.conv.0.weight": (256, 512, 3, 3),
        "decoder.7.conv.weight": (256, 256, 1, 1),
        "decoder.8.weight": (128, 256, 3, 3),
        "decoder.13.conv.weight": (256, 128, 1, 1),
        "decoder.17.conv.4.bias": (64,),
        "decoder.19.conv.weight": (128, 64, 1, 1),
        "decoder.20.weight": (64, 64, 3, 3),
        "decoder.22.weight": (3, 64, 3, 3),
        "decoder.22.bias": (3,),
    }.items():
        assert shapes[name] == shape


def test_torch_file_and_number_type(decoder: TinyDecoder, weights: dict[str, Tensor], case: dict[str, Tensor], tmp_path: Path) -> None:
    """The published .pth holds an encoder as well."""
    torch.save(weights | {"encoder.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "weights.pth")
    expected = decoder.decode(case["in.latents"])
    assert torch.equal(load_tiny_decoder(tmp_path / "weights.pth", widths=NARROW).decode(case["in.latents"]), expected)
    low = load_tiny_decoder(tmp_path / "weights.pth", dtype=torch.bfloat16, widths=NARROW).decode(case["in.latents"])
    assert low.dtype == torch.float32
    assert 0 < (low - expected).abs().mean() < 0.02


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"decoder.8.weight": None}, "decoder.8.weight is missing"),
        ({"decoder.23.weight": torch.zeros(1)}, "decoder.23.weight is unknown"),
        ({"decoder.1.bias": torch.zeros(13)}, r"decoder.1.bias is \(13,\), not \(12,\)"),
    ],
)
def test_other_weights_are_refused_by_name(weights: dict[str, Tensor], tmp_path: Path, change: dict[str, Tensor], said: str) -> None:
    file = tmp_path / "weights.safetensors"
    save_file({name: tensor for name, tensor in (weights | change).items() if tensor is not None}, file)
    with pytest.raises(ConfigError, match=said):
        load_tiny_decoder(file, widths=NARROW)


class Code:
    """What a pickle could run."""

    def __reduce__(self) -> tuple[object, ...]:
        return (exec, ("raise SystemExit('code of the file ran')",))


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    for name, content in (("cut.safetensors", GOLDEN.read_bytes()[:5000]), ("empty.pth", b""), ("words.pth", b"hello there")):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "code.pth").write_bytes(pickle.dumps({"decoder.1.weight": Code()}, protocol=2))
    torch.save({"decoder.1.weight": Code()}, tmp_path / "code_of_torch.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    for name in (*(path.name for path in tmp_path.iterdir()), "nothing.pth", "nothing.safetensors"):
        with pytest.raises(ConfigError, match=name):
            load_tiny_decoder(tmp_path / name, widths=NARROW)


def test_no_layer_sees_more_than_one_latent(decoder: TinyDecoder) -> None:
    """So memory does not grow with the number of latents, but for the video itself."""
    seen = []
    for layer in decoder.decoder:
        layer.register_forward_hook(lambda _layer, _inputs, output: seen.append(len(output)))
    decoder.decode(torch.zeros(16, 6, 2, 2))
    assert max(seen) == 4
    assert len(seen) == 6 * len(decoder.decoder)
