"""What is found out of a clip's files, and which reasons stand for good. Lengths are those that the clips were written with."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from ray_s2v.data.facts import Facts, examine
from ray_s2v.data.found import Found, Part
from ray_s2v.media.probe import VideoFacts
from ray_s2v.schema import SAMPLE_RATE
from tests.clips import NUM_FRAMES, tone, write_clip, write_wav

LENGTH_S = NUM_FRAMES / 16
AAC_S = 1024 / SAMPLE_RATE  # one frame: what AAC may add at the end


def part(path: Path) -> Part:
    return Part(str(path), path.stat().st_size, path.stat().st_mtime_ns)


def found(video: Path, audio: Path | None = None, pose: Path | None = None, caption: Path | None = None) -> Found:
    return Found(video.name, part(video), *(part(path) if path else None for path in (audio, pose, caption)), None)


def digest(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("facts") / "clip.mp4"
    write_clip(path, width=96, height=64)
    return path


def test_facts_of_a_clip(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "clip.txt").write_text("one\ntwo")
    facts = examine(found(clip, clip, caption=tmp_path / "clip.txt"))
    assert facts.video == VideoFacts(96, 64, NUM_FRAMES, LENGTH_S, True)
    assert facts.sound
    assert facts.sound.start_s == pytest.approx(0, abs=AAC_S)
    assert facts.sound.end_s == pytest.approx(LENGTH_S, abs=AAC_S)
    assert facts.sound.peak == pytest.approx(0.5, abs=0.05)
    assert facts == Facts("", facts.video, facts.sound, "", ("one", "two"), digest(clip), digest(clip), "")


def test_sound_and_pose_of_their_own_files(clip: Path, tmp_path: Path) -> None:
    write_wav(tmp_path / "voice.wav", tone(SAMPLE_RATE, peak=0.25))
    write_clip(tmp_path / "pose.mp4", num_frames=8, sound=np.zeros(0, np.float32))
    facts = examine(found(clip, tmp_path / "voice.wav", tmp_path / "pose.mp4"))
    assert facts.sound == (0.0, 1.0, pytest.approx(0.25, abs=1e-3))
    assert (facts.reason, facts.silence, facts.captions) == ("", "", ())
    assert (facts.video_digest, facts.audio_digest, facts.pose_digest) == (
        digest(clip),
        digest(tmp_path / "voice.wav"),
        digest(tmp_path / "pose.mp4"),
    )


def test_sound_that_no_file_holds(clip: Path) -> None:
    facts = examine(found(clip))
    assert (facts.reason, facts.sound, facts.silence, facts.audio_digest) == ("", None, "", "")


def test_silence_is_a_fact_and_no_reason(tmp_path: Path, clip: Path) -> None:
    """Whether it is one is for the source to say."""
    write_clip(tmp_path / "mute.mp4", sound=np.zeros(0, np.float32))
    mute = examine(found(tmp_path / "mute.mp4", tmp_path / "mute.mp4"))
    assert (mute.reason, mute.sound, mute.silence) == ("", None, "no audio stream")
    assert mute.video == VideoFacts(64, 64, NUM_FRAMES, LENGTH_S, False)
    write_clip(tmp_path / "silent.mp4", sound=np.zeros(int(LENGTH_S * SAMPLE_RATE), np.float32))
    assert examine(found(tmp_path / "silent.mp4", tmp_path / "silent.mp4")).silence == "the sound is silent"
    write_wav(tmp_path / "silent.wav", np.zeros(16, np.float32))
    assert examine(found(clip, tmp_path / "silent.wav")).silence == "the sound is silent"


def test_what_makes_a_clip_unusable(tmp_path: Path, clip: Path) -> None:
    whole = clip.read_bytes()
    for name, content in {"empty": b"", "text": b"no video", "half": whole[: len(whole) // 2]}.items():
        (tmp_path / f"{name}.mp4").write_bytes(content)
    (tmp_path / "empty.txt").touch()
    (tmp_path / "text.wav").write_bytes(b"no sound")
    write_wav(tmp_path / "long.wav", tone(int((LENGTH_S + 1.5) * SAMPLE_RATE)))
    write_clip(tmp_path / "mute.mp4", sound=np.zeros(0, np.float32))
    pose = f"the pose video {tmp_path}"
    reasons = {
        "the file is empty": found(tmp_path / "empty.mp4", clip),
        "not a media file, or its header is cut off": found(tmp_path / "text.mp4", clip),
        "the caption empty.txt is empty": found(clip, clip, caption=tmp_path / "empty.txt"),
        "3.0 s of sound for 1.5 s of pictures": found(clip, tmp_path / "long.wav"),
        "no audio stream": found(clip, tmp_path / "mute.mp4"),
        f"{pose}/empty.mp4: the file is empty": found(clip, clip, tmp_path / "empty.mp4"),
        f"{pose}/text.mp4: not a media file, or its header is cut off": found(clip, clip, tmp_path / "text.mp4"),
    }
    assert {reason: examine(one) for reason, one in reasons.items()} == {reason: Facts(reason) for reason in reasons}
    for broken in (found(tmp_path / "half.mp4"), found(clip, tmp_path / "text.wav"), found(clip, clip, tmp_path / "half.mp4")):
        facts = examine(broken)
        assert facts == Facts(facts.reason)
        assert facts.reason


def test_file_that_cannot_be_read_is_no_fact(tmp_path: Path, clip: Path) -> None:
    """A disk that fails, a file that is gone or that someone is still writing."""
    (tmp_path / "broken.mp4").symlink_to("/proc/self/mem")
    with pytest.raises(OSError, match="Input/output error"):
        examine(found(tmp_path / "broken.mp4"))
    with pytest.raises(FileNotFoundError):
        examine(Found("x", Part(str(tmp_path / "gone.mp4"), 3, 0), None, None, None, None))
    size = clip.stat().st_size
    with pytest.raises(OSError, match=rf"clip\.mp4: {size} bytes were read, and it had {size - 1} when it was listed"):
        examine(Found("x", Part(str(clip), size - 1, 0), None, None, None, None))
