"""What a source's options make of a clip's facts."""

from typing import Any

import pytest

from ray_s2v.data.facts import Facts
from ray_s2v.data.found import Found, Part, Rejected
from ray_s2v.data.judge import judged, without_copies
from ray_s2v.media.audio import SoundFacts
from ray_s2v.media.probe import VideoFacts
from ray_s2v.schema import Bucket, Clip, Media
from ray_s2v.storage import Member
from tests.clips import source

PLACE = "/data/faces/a.mp4"
SOUND = SoundFacts(0.01, 6.1, 0.5)
FOUND = Found("deep/a.mp4", Part(PLACE, 9, 0), Part(PLACE, 9, 0), None, Part("/data/faces/a.txt", 3, 0), None)
FACTS = Facts("", VideoFacts(96, 64, 96, 6.0, True), SOUND, "", ("one", "two"), "12", "12", "")


def judge(found: Found = FOUND, facts: Facts = FACTS, **changes: Any) -> Clip:
    outcome = judged(found, facts, source("/data/faces", **changes))
    assert isinstance(outcome, Clip), outcome
    return outcome


def refusal(found: Found = FOUND, facts: Facts = FACTS, **changes: Any) -> str:
    outcome = judged(found, facts, source("/data/faces", **changes))
    assert isinstance(outcome, Rejected), outcome
    assert outcome.path == PLACE
    return outcome.reason


def test_clip_holds_what_was_found() -> None:
    media = Media(PLACE, "12")
    assert judge() == Clip("faces/deep/a.mp4", "faces", media, media, None, ("one", "two"), 96, 6.1, Bucket(64, 64, 16), 96, 64)


def test_id_begins_with_the_name_of_the_source() -> None:
    assert judge(name="mine").clip_id == "mine/deep/a.mp4"
    assert judge(name="mine").source == "mine"


def test_words_of_the_listing_are_the_captions() -> None:
    assert judge(FOUND._replace(words=("said",), caption=None)).captions == ("said",)


def test_sound_and_pose_apart() -> None:
    found = FOUND._replace(audio=Part("/v/a.wav", 1, 0), pose=Part("/p/a.mp4", 1, 0))
    clip = judge(found, FACTS._replace(audio_digest="34", pose_digest="56"))
    assert (clip.audio, clip.pose) == (Media("/v/a.wav", "34"), Media("/p/a.mp4", "56"))


@pytest.mark.parametrize(
    ("found", "facts"),
    [
        (FOUND, FACTS._replace(silence="no audio stream", sound=None)),
        (FOUND, FACTS._replace(silence="the sound is silent")),
        (FOUND._replace(audio=None), FACTS._replace(sound=None, audio_digest="")),
    ],
)
def test_clip_without_sound_only_where_that_is_allowed(found: Found, facts: Facts) -> None:
    clip = judge(found, facts, allow_zero_audio=True, max_duration_seconds=1)
    assert (clip.audio, clip.audio_s) == (None, 0)
    if facts.silence:
        assert refusal(found, facts) == facts.silence


def test_reason_of_the_files_stands_whatever_is_allowed() -> None:
    assert refusal(facts=Facts("the file is empty"), allow_zero_audio=True) == "the file is empty"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_frames": 100}, "too short: 96 frames at 16 a second, num_frames is 100"),
        ({"min_frames": 97}, "too short: 96 frames at 16 a second, min_frames is 97"),
        ({"max_frames": 95}, "too long: 96 frames at 16 a second, max_frames is 95"),
        ({"max_duration_seconds": 6}, "too long: 6.1 s of sound, max_duration_seconds is 6"),
        ({"min_size": 65}, "too small: 96x64, min_size is 65"),
        ({"resolution": 64, "resolution_type": "pixel_area"}, "96x64 would become 80x48; the network needs 64 pixels each way"),
    ],
)
def test_options_refuse_with_the_reason(changes: dict[str, Any], reason: str) -> None:
    assert refusal(**changes) == reason


@pytest.mark.parametrize(
    "changes", [{"num_frames": 96}, {"min_frames": 96}, {"max_frames": 96}, {"max_duration_seconds": 6.1}, {"min_size": 64}]
)
def test_what_is_just_within_is_taken(changes: dict[str, Any]) -> None:
    judge(**changes)


def test_member_of_a_tar_is_shown_without_its_position() -> None:
    found = FOUND._replace(video=Part(str(Member("/data/s.tar", 512, 9, "a.mp4")), 9, 0))
    assert judged(found, Facts("the file is empty"), source("/data")) == Rejected("/data/s.tar/a.mp4", "the file is empty")


def test_copies_are_refused_but_not_what_differs_in_anything() -> None:
    other = FACTS._replace(audio_digest="34")
    clips = [
        judge(FOUND._replace(name=name, video=Part(f"/data/{name}", 9, 0)), facts)
        for name, facts in (("a", FACTS), ("b", FACTS), ("c", other), ("d", other), ("e", FACTS._replace(pose_digest="56")))
    ]
    posed = judge(FOUND._replace(name="f", pose=Part("/p", 1, 0)), FACTS._replace(pose_digest="56"))
    kept, copies = without_copies([*clips, posed])
    assert [clip.clip_id for clip in kept] == ["faces/a", "faces/c", "faces/f"]
    assert copies == [
        Rejected("/data/b", "the same content as faces/a"),
        Rejected("/data/d", "the same content as faces/c"),
        Rejected("/data/e", "the same content as faces/a"),
    ]
