"""The network on a GPU against the golden vectors, in float32 and bf16."""

import pytest
import torch

from ray_s2v.model.transformer import WanS2VTransformer3DModel
from tests.golden.conftest import golden, model_case, network, official_folder  # noqa: F401 fixtures

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
torch.backends.cudnn.allow_tf32 = False  # on by default for convolutions, and worth 1e-3 here
CASES = ["first_clip", "continuation", "odd_size", "short_motion", "batch2"]


def velocity(model: WanS2VTransformer3DModel, case: dict[str, torch.Tensor], first: bool, motion_frames: tuple[int, int]) -> torch.Tensor:
    on_gpu = {name: tensor.cuda() for name, tensor in case.items()}
    text = [on_gpu[f"in.context.{i}"] for i in range(len(case["in.t"]))]
    with torch.no_grad():
        return model(
            on_gpu["in.x"],
            on_gpu["in.t"],
            text,
            on_gpu["in.ref_latents"],
            None if first else on_gpu["in.motion_latents"],
            on_gpu["in.cond_states"],
            audio=on_gpu["in.audio_input"],
            motion_frames=motion_frames,
        ).cpu()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("dtype", "worst"), [(torch.float32, 1e-4), (torch.bfloat16, 0.15)])
def test_golden_cases(official_folder, model_case, name, dtype, worst):  # noqa: F811
    model = WanS2VTransformer3DModel.from_pretrained(official_folder, torch_dtype=dtype, device="cuda")
    case = model_case(name)
    out = velocity(model, case, name == "first_clip", (17, 5) if name == "short_motion" else (73, 19))
    assert out.dtype == torch.float32
    assert (out - case["out"]).abs().max() < worst
    assert (out - case["out"]).norm() / case["out"].norm() < worst / 5
