"""Videos made by the real classes with tiny weights: their pictures, their sound, and an adapter's part in them."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from ray_s2v.config.job import Job
from ray_s2v.config.validation import Scene
from ray_s2v.demo.clips import Recording, write_clip
from ray_s2v.demo.encoder_weights import save_encoders
from ray_s2v.demo.faces import random_look
from ray_s2v.demo.transformer_weights import save_transformer
from ray_s2v.model.lora import adapter_name, load_adapter
from ray_s2v.schema import Bucket
from ray_s2v.training.checkpoint import save_final_adapter
from ray_s2v.training.network import Checkpoint, job_lora, network_for_training
from ray_s2v.validation.video import for_one, make_videos
from tests.jobs import changed

CPU = torch.device("cpu")
PROMPT = "a round blue face talks"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights, and a talking clip of 1.5 s in stereo at 44.1 kHz."""
    folder = tmp_path_factory.mktemp("videos")
    random = np.random.default_rng(1)
    write_clip(folder / "talk.mp4", random_look(random), Recording(64, 64, Fraction(25), 44_100, 1.5), random)
    save_encoders(folder, [PROMPT])
    save_transformer(folder)
    return folder


@pytest.fixture(scope="module")
def job(files: Path) -> Job:
    encoders = {
        "encoders.vae.path": str(files / "vae"),
        "encoders.speech.path": str(files / "wav2vec2-large-xlsr-53-english"),
        "encoders.text.path": str(files / "text_encoder"),
        "encoders.text.tokenizer": str(files / "tokenizer"),
    }
    sampling = {"size": "64x64", "num_frames": 16, "steps": 2, "guidance": 1.0}
    settings = changed({**encoders, "model.path": str(files), "model.base_precision": "fp32", "sampling": sampling, "lora.rank": 2})
    return for_one(Job.model_validate(settings), 0.0)


def scene(files: Path, **changes: object) -> Scene:
    return Scene(**{"name": "talk", "picture": str(files / "talk.mp4"), "speech": str(files / "talk.mp4"), "prompt": PROMPT, **changes})


def pictures(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def quiet(*_: object) -> None:
    """What nobody wants to be told."""


def test_a_video_has_its_files_sound_and_as_many_pictures(files: Path, job: Job, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    scenes = {
        tmp_path / "talk.mp4": scene(files, seconds=1.5),
        tmp_path / "gone.mp4": scene(files, name="gone", speech=str(files / "gone.wav")),
    }
    failed = make_videos(job, scenes, None, 1.0, CPU, quiet, lambda *progress: told.append(progress), quiet)
    assert failed.keys() == {tmp_path / "gone.mp4"}
    assert "gone.wav" in failed[tmp_path / "gone.mp4"]
    assert not (tmp_path / "gone.mp4").exists()
    assert told == [("talk", step, 4) for step in (1, 2, 3, 4)], "two clips of two steps"
    with av.open(str(tmp_path / "talk.mp4")) as container:
        video, audio = container.streams
        assert video.frames == 24 - 3, "1.5 s at 16 a second, without the first latent's first three"
        assert (audio.rate, audio.layout.name) == (44_100, "stereo")
        assert float(audio.duration * audio.time_base) == pytest.approx(21 / 16, abs=0.03)
    assert pictures(tmp_path / "talk.mp4").shape == (21, 64, 64, 3)


def test_the_adapter_and_its_weight_change_the_video(files: Path, job: Job, tmp_path: Path) -> None:
    """With weight 0 it is the network's own; between 0 and 1 it is another."""
    config = job_lora(job)
    model = network_for_training(job, config, Checkpoint(str(files)), CPU, Bucket(64, 64, 16), quiet)
    draw = torch.Generator().manual_seed(0)
    shapes = {adapter_name(name): weight.shape for name, weight in model.named_parameters() if weight.requires_grad}
    tensors = {name: torch.randn(shape, generator=draw) / 2 for name, shape in shapes.items()}
    save_final_adapter(tmp_path / "adapter", tensors, config)
    assert load_adapter(tmp_path / "adapter")[0].keys() == tensors.keys()
    made = {}
    for adapter, weight in ((None, 1.0), (tmp_path / "adapter", 0.0), (tmp_path / "adapter", 0.5), (tmp_path / "adapter", 1.0)):
        path = tmp_path / "video.mp4"
        assert not make_videos(job, {path: scene(files, seconds=1)}, adapter, weight, CPU, quiet, quiet, quiet)
        made[adapter is None, weight] = pictures(path).astype(float)
    off = {weight: abs(made[False, weight] - made[True, 1.0]).mean() for weight in (0.0, 0.5, 1.0)}
    assert off[0.0] < 0.1
    assert off[0.5] > 0.5
    assert abs(made[False, 0.5] - made[False, 1.0]).mean() > 0.5
