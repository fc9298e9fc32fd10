"""The clips made by code: a good set to train on, one of each bad kind, and mouths that follow the voice."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from ray_s2v.data.window import min_history
from ray_s2v.demo.clips import (
    NUM_CLIPS,
    NUM_HELD_OUT,
    PICTURE_RATES,
    SIZES,
    SOUND_RATES,
    Recording,
    make_clips,
    make_held_out_clips,
    write_clip,
)
from ray_s2v.demo.faces import MOUTH_COLOUR, loudness_at, random_look
from ray_s2v.media.audio import SoundFacts, measure_audio, read_audio
from ray_s2v.media.picture import centred
from ray_s2v.media.probe import VideoFacts, check_sound, mismatch_s, probe_video
from ray_s2v.media.video import read_frames
from ray_s2v.schema import FRAME_RATE, SAMPLE_RATE, ClipError

GOOD = [f"clip_{index:02}" for index in range(NUM_CLIPS)]
SHORT = Recording(160, 160, Fraction(25), 48_000, 1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once: it takes a few seconds."""
    folder = tmp_path_factory.mktemp("clips")
    make_clips(folder)
    return folder


def examined(folder: Path, name: str) -> tuple[VideoFacts, SoundFacts]:
    """What is in a clip. Raises ClipError for one that cannot be used."""
    path = str(folder / f"{name}.mp4")
    video, sound = probe_video(path), measure_audio(path, path)
    check_sound(video, sound)
    return video, sound


@pytest.fixture(scope="module")
def probes(folder: Path) -> list[tuple[VideoFacts, SoundFacts]]:
    return [examined(folder, name) for name in GOOD]


def test_all_clips_have_captions_and_nothing_half_written_is_left(folder: Path) -> None:
    bad = {"bad_empty", "bad_text", "bad_truncated", "bad_no_sound", "bad_silent", "bad_too_short", "bad_no_caption"}
    assert {path.stem for path in folder.glob("*.mp4")} == {*GOOD, *bad}
    assert {path.stem for path in folder.glob("*.txt")} == {*GOOD, *bad} - {"bad_no_caption"}
    assert {path.suffix for path in folder.iterdir()} == {".mp4", ".txt"}
    captions = [(folder / f"{name}.txt").read_text() for name in GOOD]
    assert all("face talks in a" in caption for caption in captions)
    assert len(set(captions)) > NUM_CLIPS // 2


def test_sizes_lengths_and_rates(folder: Path, probes: list[tuple[VideoFacts, SoundFacts]]) -> None:
    clips = [video for video, _ in probes]
    assert {(clip.width, clip.height) for clip in clips} == set(SIZES)
    lengths = [clip.video_s for clip in clips]
    assert 1.95 < min(lengths) < max(lengths) < 4.55
    long_clips = [clip for clip in clips if clip.video_s >= 3.5 - 1 / 24]
    assert len(long_clips) == 8
    assert {(clip.width, clip.height) for clip in long_clips} == set(SIZES)
    assert max(mismatch_s(video, sound) for video, sound in probes) < 0.05
    rates = set()
    for name in GOOD:
        with av.open(folder / f"{name}.mp4") as container:
            video, audio = container.streams.video[0], container.streams.audio[0]
            assert (video.codec.name, audio.codec.name, audio.layout.name) == ("h264", "aac", "stereo")
            rates.add((video.average_rate, audio.rate))
    assert {picture_rate for picture_rate, _ in rates} == set(PICTURE_RATES)
    assert {sound_rate for _, sound_rate in rates} == set(SOUND_RATES)


@pytest.mark.parametrize("name", GOOD)
def test_mouth_follows_the_voice(folder: Path, name: str) -> None:
    """Area of the mouth on the frames as trained on, against the loudness of the sound as the speech encoder gets it."""
    path = str(folder / f"{name}.mp4")
    clip = probe_video(path)
    frames = read_frames(path, range(clip.num_frames), centred(clip.width, clip.height, clip.width, clip.height))
    mouth = (np.abs(frames.astype(int) - MOUTH_COLOUR).sum(axis=-1) < 90).sum(axis=(1, 2))
    loudness = loudness_at(read_audio(path, path), SAMPLE_RATE, np.arange(clip.num_frames) / FRAME_RATE)
    assert np.corrcoef(mouth, loudness)[0, 1] > 0.8


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("bad_empty", "the file is empty"),
        ("bad_text", "not a media file"),
        ("bad_truncated", "truncated"),
        ("bad_no_sound", "no audio stream"),
        ("bad_silent", "silent"),
    ],
)
def test_bad_clips_have_their_reason(folder: Path, name: str, reason: str) -> None:
    with pytest.raises(ClipError, match=reason):
        examined(folder, name)


def test_other_bad_clips_are_good_videos(folder: Path) -> None:
    assert examined(folder, "bad_too_short")[0].num_frames == 5
    assert examined(folder, "bad_no_caption")[0].num_frames == 32


def test_clips_are_a_function_of_the_seed(tmp_path: Path) -> None:
    contents = []
    for name, seed in (("first", 3), ("again", 3), ("other", 4)):
        random = np.random.default_rng(seed)
        write_clip(tmp_path / f"{name}.mp4", random_look(random), SHORT, random)
        contents.append((tmp_path / f"{name}.mp4").read_bytes() + (tmp_path / f"{name}.txt").read_bytes())
    assert contents[0] == contents[1] != contents[2]


def test_loudness_of_a_sine_is_its_mean_square() -> None:
    sound = (0.5 * np.sin(2 * np.pi * 200 * np.arange(16_000) / 16_000)).astype(np.float32)
    np.testing.assert_allclose(loudness_at(sound, 16_000, np.array([0.3, 0.5])), 0.5 / np.sqrt(2), rtol=1e-3)
    assert loudness_at(sound, 16_000, np.array([5.0]))[0] == 0


def test_held_out_clips_are_others_and_can_be_continued(folder: Path, tmp_path: Path) -> None:
    make_held_out_clips(tmp_path)
    captions = {file.read_text() for file in folder.glob("clip_*.txt")}
    names = [f"held_out_{index}" for index in range(NUM_HELD_OUT)]
    assert sorted(path.stem for path in tmp_path.glob("*.mp4")) == names
    for name in names:
        video, sound = examined(tmp_path, name)
        assert (video.width, video.height) == SIZES[0]
        assert video.num_frames - 16 >= min_history(16)
        assert sound.peak > 0.5
        assert (tmp_path / f"{name}.txt").read_text() not in captions
