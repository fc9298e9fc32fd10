"""The frozen encoders on tiny real weights: which frame goes where, and what must not go wrong in silence."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import UMT5EncoderModel

from ray_s2v.demo.encoder_weights import save_encoders
from ray_s2v.encoders.loading import load_frozen
from ray_s2v.encoders.speech import SpeechEncoder, at_feature_rate, frame_features, normalised
from ray_s2v.encoders.text import TextEncoder, cleaned, load_tokenizer
from ray_s2v.encoders.vae import VideoEncoder, scaled
from ray_s2v.location import find_place
from ray_s2v.schema import HISTORY_FRAMES, HISTORY_LATENTS, ClipError, ConfigError

CAPTIONS = ["a drawn face speaks slowly", "the mouth opens with the voice", "说话的人"]
WAV2VEC = "wav2vec2-large-xlsr-53-english"
NUM_FRAMES = 8


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    save_encoders(folder, CAPTIONS)
    return folder


@pytest.fixture(scope="module")
def video_encoder(weights: Path) -> VideoEncoder:
    return VideoEncoder(weights / "vae")


@pytest.fixture(scope="module")
def speech_encoder(weights: Path) -> SpeechEncoder:
    return SpeechEncoder(weights / WAV2VEC)


@pytest.fixture(scope="module")
def text_encoder(weights: Path) -> TextEncoder:
    return TextEncoder(weights / "text_encoder", weights / "tokenizer", dtype=torch.float32)


def drawn_pixels(num_frames: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (num_frames, 32, 48, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def drawn_waveform(samples: int = 16_000) -> Tensor:
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(0)) + 0.05


# Video


def test_first_clip_drops_the_latent_of_the_frame_before(video_encoder: VideoEncoder) -> None:
    pixels = drawn_pixels(1 + NUM_FRAMES)
    latents, motion = video_encoder.encode_clip(pixels.numpy(), "first", NUM_FRAMES)
    assert motion is None
    assert latents.shape == (16, NUM_FRAMES // 4, 4, 6)
    assert torch.equal(latents, video_encoder.encode(pixels)[:, 1:])


def test_motion_latents_are_those_of_the_history_alone(video_encoder: VideoEncoder) -> None:
    pixels = drawn_pixels(HISTORY_FRAMES + NUM_FRAMES)
    latents, motion = video_encoder.encode_clip(pixels, "continuation", NUM_FRAMES)
    assert motion is not None
    assert motion.shape == (16, HISTORY_LATENTS, 4, 6)
    assert latents.shape == (16, NUM_FRAMES // 4, 4, 6)
    assert torch.equal(motion, video_encoder.encode(pixels[:HISTORY_FRAMES]))
    assert torch.equal(torch.cat([motion, latents], dim=1), video_encoder.encode(pixels))


@pytest.mark.parametrize("num_missing", [1, 60, HISTORY_FRAMES])
def test_missing_history_is_exactly_grey(video_encoder: VideoEncoder, num_missing: int) -> None:
    pixels = drawn_pixels(HISTORY_FRAMES + NUM_FRAMES - num_missing)
    latents, motion = video_encoder.encode_clip(pixels, "continuation", NUM_FRAMES, num_missing)
    assert motion is not None
    video = torch.cat([torch.zeros(num_missing, 32, 48, 3), scaled(pixels, "cpu")])
    assert torch.equal(torch.cat([motion, latents], dim=1), video_encoder.encode_scaled(video))


def test_a_wrong_number_of_pictures_is_refused(video_encoder: VideoEncoder) -> None:
    with pytest.raises(AssertionError):
        video_encoder.encode_clip(drawn_pixels(NUM_FRAMES), "first", NUM_FRAMES)
    with pytest.raises(AssertionError):
        video_encoder.encode_clip(drawn_pixels(HISTORY_FRAMES + NUM_FRAMES), "continuation", NUM_FRAMES, num_missing=1)


def test_scaling_reaches_both_ends() -> None:
    assert scaled(torch.tensor([0, 255], dtype=torch.uint8), "cpu").tolist() == [-1.0, 1.0]


def test_decode_gives_back_the_frames_of_the_latents(video_encoder: VideoEncoder) -> None:
    video = video_encoder.decode(video_encoder.encode(drawn_pixels(9)))
    assert video.shape == (9, 32, 48, 3)
    assert video.abs().max() <= 1


# Sound


def test_last_hidden_state_has_the_final_norm(speech_encoder: SpeechEncoder) -> None:
    waveform = drawn_waveform()
    states = speech_encoder.hidden_states(waveform.numpy())
    listed = torch.cat(speech_encoder.wav2vec(normalised(waveform)[None], output_hidden_states=True).hidden_states)
    assert states.shape == (25, 49, 32)
    assert torch.equal(states[:-1], listed[:-1])
    assert (states[-1] - listed[-1]).abs().max() > 0.1, "transformers lists the normalised state again: torch.cat is not needed"
    torch.testing.assert_close(states[-1], speech_encoder.wav2vec.encoder.layer_norm(listed[-1]))


def test_sound_does_not_depend_on_loudness_or_offset(speech_encoder: SpeechEncoder) -> None:
    waveform = drawn_waveform()
    torch.testing.assert_close(speech_encoder.encode(waveform, 3, 5), speech_encoder.encode(3 * waveform + 0.2, 3, 5), atol=1e-3, rtol=0.0)


def test_hub_names_of_the_positional_convolution_load(weights: Path, speech_encoder: SpeechEncoder, tmp_path: Path) -> None:
    """Files written before torch's parametrizations call the two halves weight_g and weight_v."""
    old = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    tensors = copied_wav2vec(weights, tmp_path)
    for new_part, old_part in old.items():
        name = f"wav2vec2.encoder.pos_conv_embed.conv.{new_part}"
        tensors[name.replace(new_part, old_part)] = tensors.pop(name)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    waveform = drawn_waveform()
    assert torch.equal(SpeechEncoder(tmp_path).hidden_states(waveform), speech_encoder.hidden_states(waveform))


@pytest.mark.parametrize("name", ["encoder.pos_conv_embed.conv.parametrizations.weight.original0", "encoder.layers.3.layer_norm.bias"])
def test_a_missing_tensor_is_named(weights: Path, tmp_path: Path, name: str) -> None:
    tensors = copied_wav2vec(weights, tmp_path)
    del tensors[f"wav2vec2.{name}"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=name):
        SpeechEncoder(tmp_path)


def copied_wav2vec(weights: Path, folder: Path) -> dict[str, Tensor]:
    """The stored tensors; their config is written to `folder`."""
    (folder / "config.json").write_text((weights / WAV2VEC / "config.json").read_text())
    return load_file(weights / WAV2VEC / "model.safetensors")


@pytest.mark.parametrize("samples", [0, 399, 400])
def test_too_short_a_sound_is_the_clips_error(speech_encoder: SpeechEncoder, samples: int) -> None:
    with pytest.raises(ClipError, match="the sound is too short"):
        speech_encoder.encode(drawn_waveform(samples), 0, 4)


def ramp(num_hidden: int) -> Tensor:
    """Hidden states that are 1, 2, 3, .. when there are 30 a second."""
    num_features = int(num_hidden / 50 * 30)
    return torch.linspace(1, num_features, num_hidden, dtype=torch.float64)[None, :, None].expand(2, -1, 3)


def test_number_of_features_follows_the_official_arithmetic() -> None:
    assert at_feature_rate(torch.zeros(1, 205, 1)).shape == (1, 1, 122)  # 205 / 50 * 30 is a hair below 123


def test_frames_take_the_nearest_feature_with_halves_to_even() -> None:
    taken = frame_features(ramp(500), 0, 30)[0, 0] - 1
    assert taken[:13].round().tolist() == [0, 2, 4, 6, 8, 9, 11, 13, 15, 17, 19, 21, 22]  # 12 * 1.875 = 22.5
    assert taken[20].round() == 38  # 37.5
    assert taken[28].round() == 52  # 52.5


@pytest.mark.parametrize("start_frame", [1, 13, 47])
def test_a_window_is_a_cut_of_the_whole(start_frame: int) -> None:
    whole = frame_features(ramp(500), 0, 160)
    assert torch.equal(frame_features(ramp(500), start_frame, 20), whole[:, :, start_frame : start_frame + 20])


def test_frames_after_the_end_are_zero() -> None:
    features = frame_features(ramp(50), 14, 10)  # 30 features: frame 15 takes number 28, frame 16 would take number 30
    assert features.shape == (2, 3, 10)
    assert features[:, :, :2].round().tolist() == [[[27.0, 29.0]] * 3] * 2
    assert not features[:, :, 2:].any()
    assert not frame_features(ramp(50), 1000, 4).any()


# Text


@pytest.mark.parametrize("caption", ["", CAPTIONS[0], "the voice opens " * 10])
def test_embedding_without_padding_equals_the_padded_one(text_encoder: TextEncoder, caption: str) -> None:
    tokens = text_encoder.tokenizer(cleaned(caption), padding="max_length", truncation=True, max_length=512, return_tensors="pt")
    padded = text_encoder.umt5(tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state[0]
    embedding = text_encoder.encode(caption)
    assert len(embedding) == tokens["attention_mask"].sum()
    torch.testing.assert_close(embedding, padded[: len(embedding)], atol=1e-5, rtol=0.0)


def test_length_of_empty_and_of_endless_captions(text_encoder: TextEncoder) -> None:
    assert text_encoder.encode(" \n").shape == (1, 64)
    assert text_encoder.encode("voice " * 1000).shape == (512, 64)
    assert text_encoder.tokenizer("voice " * 1000, truncation=True, max_length=512).input_ids[-1] == 1


def test_cleaning() -> None:
    assert cleaned("  a\t voice\n\nspeaks ") == "a voice speaks"
    assert cleaned("Tom &amp;amp; Ann &lt;3") == "Tom & Ann <3"
    assert cleaned("itâ€™s schÃ¶n") == "it's schön"
    assert cleaned("Upper Case") == "Upper Case"


def test_tokenizer_is_read_as_it_is(weights: Path, tmp_path: Path) -> None:
    """The hub calls UMT5's tokenizer a T5Tokenizer, a class that would put its own rules over the file's."""
    (tmp_path / "tokenizer.json").write_text((weights / "tokenizer/tokenizer.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer", "pad_token": "<pad>", "eos_token": "</s>"}')
    ligature = "ﬁne voice"  # NFKC, which is in the file, makes the first sign two letters
    assert load_tokenizer(tmp_path)(ligature).input_ids == load_tokenizer(weights / "tokenizer")("fine voice").input_ids


# Places


def test_places(tmp_path: Path) -> None:
    assert find_place(tmp_path) == (str(tmp_path), "")
    assert find_place("Wan-AI/Wan2.1-T2V-14B-Diffusers/vae") == ("Wan-AI/Wan2.1-T2V-14B-Diffusers", "vae")
    assert find_place("owner/repository/sub/folder") == ("owner/repository", "sub/folder")
    for place in (tmp_path / "nothing", "./nothing/vae", "nothing"):
        with pytest.raises(ConfigError, match="no such folder"):
            find_place(place)


def test_an_empty_folder_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="AutoencoderKLWan"):
        VideoEncoder(tmp_path)
    with pytest.raises(ConfigError, match="Wav2Vec2Model"):
        SpeechEncoder(tmp_path)
    with pytest.raises(ConfigError, match="tokenizer"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("model_class", "stored", "name"),
    [
        (AutoencoderKLWan, "vae/diffusion_pytorch_model.safetensors", "encoder.conv_in.weight"),
        (UMT5EncoderModel, "text_encoder/model.safetensors", "shared.weight"),
    ],
)
def test_no_network_starts_with_random_tensors(model_class: Any, stored: str, name: str, weights: Path, tmp_path: Path) -> None:
    file = weights / stored
    tensors = load_file(file)
    del tensors[name]
    (tmp_path / "config.json").write_text((file.parent / "config.json").read_text())
    save_file(tensors, tmp_path / file.name, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=name):
        load_frozen(model_class, tmp_path, "cpu", torch.float32)


def test_pickled_weights_are_not_read(weights: Path, tmp_path: Path) -> None:
    tensors = copied_wav2vec(weights, tmp_path)
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="safetensors"):
        SpeechEncoder(tmp_path)


# Demo weights


def test_demo_weights_are_a_function_of_the_seed(weights: Path, tmp_path: Path) -> None:
    state = torch.random.get_rng_state()
    save_encoders(tmp_path / "same", CAPTIONS)
    save_encoders(tmp_path / "other", CAPTIONS, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    files = [path.relative_to(weights) for path in weights.rglob("*") if path.is_file()]
    assert sum((weights / file).stat().st_size for file in files) < 3e6
    assert all((tmp_path / "same" / file).read_bytes() == (weights / file).read_bytes() for file in files)
    vae = Path("vae/diffusion_pytorch_model.safetensors")
    assert (tmp_path / "other" / vae).read_bytes() != (weights / vae).read_bytes()


def test_demo_latents_have_the_spread_of_real_ones(video_encoder: VideoEncoder) -> None:
    latents = video_encoder.encode(drawn_pixels(9))
    assert 0.5 < latents.std() < 2
