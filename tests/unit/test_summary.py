"""The tables that `check` and `train` show: the numbers in them, their columns, and that they fit their lines."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from ray_s2v.data.discover import Discovery
from ray_s2v.data.features import Features
from ray_s2v.data.found import Rejected
from ray_s2v.data.held_out import held_out_rows
from ray_s2v.data.plan import Plan
from ray_s2v.reporting.summary import WIDTH, clips_summary, reason_of, run_summary
from ray_s2v.schema import Clip
from tests.plans import BUCKETS, clip, job, many

WIDE, HIGH, *_ = BUCKETS


def found(clips: Sequence[Clip], **changes: Any) -> Discovery:
    facts = {"held_out": [], "rejected": [], "num_reused": 0, "num_mismatched": 0, "worst_mismatch": "", "worst_mismatch_s": 0.0}
    return Discovery(clips=list(clips), **({"num_rejected": Counter()} | facts | changes))


def summary(clips: Sequence[Clip], sources: Sequence[dict[str, Any]] = ({},), slots: int = 4, **changes: Any) -> list[str]:
    """The lines about these clips, each of which fits."""
    settings = job(slots=slots, sources=sources)
    lines = clips_summary(settings, Plan.of(settings, clips), found(clips, **changes)).split("\n")
    assert max(map(len, lines)) <= WIDTH
    return lines


def cells(lines: Sequence[str], first: str) -> list[str]:
    """The cells of the only line that begins with these words."""
    (line,) = [line for line in lines if line.startswith(first)]
    return re.split(r"\s{2,}", line.strip())


def test_sources_with_their_share_of_an_epoch() -> None:
    clips = [*many(30, 160, WIDE), *many(5, 80, WIDE, source="faces")]
    sources = [{}, {"path": "x/faces", "repeats": 5}, {"path": "x/held", "is_eval": True}]
    held_out = many(2, 480, WIDE, source="held")
    lines = summary(clips, sources, held_out=held_out, num_reused=7, num_rejected=Counter(faces=3))
    assert lines[0] == "35 clips to train on, 5.4 min; 2 held out; 0 rejected; 7 were known from before"
    assert cells(lines, "source") == ["source", "clips", "rejected", "length", "of an epoch", "weight", "repeats"]
    assert cells(lines, "clips ") == ["clips", "30", "0", "5.0 min", "50.0%", "0"]  # 30 visits of 60
    assert cells(lines, "faces ") == ["faces", "5", "3", "0.4 min", "50.0%", "5"]
    assert cells(lines, "held ") == ["held", "2", "0", "1.0 min", "held out", "0"]


def test_weighted_sources() -> None:
    clips = [*many(30, 80, WIDE), *many(10, 80, HIGH, source="faces")]
    lines = summary(clips, [{"weight": 1}, {"path": "faces", "weight": 3}])
    assert cells(lines, "clips ") == ["clips", "30", "0", "2.5 min", "25.0%", "1", "0"]
    assert cells(lines, "faces ") == ["faces", "10", "0", "0.8 min", "75.0%", "3", "0"]
    assert cells(lines, f"{WIDE} ") == [str(WIDE), "30", "2.5 min", "2.5", "0"]  # a quarter of ten steps, on average
    assert cells(lines, f"{HIGH} ") == [str(HIGH), "10", "0.8 min", "7.5", "0"]


def test_source_of_which_nothing_can_be_used() -> None:
    lines = summary(many(4, 80, WIDE), [{}, {"path": "faces"}])
    assert cells(lines, "faces ") == ["faces", "0", "0", "0.0 min", "0.0%", "0"]


def test_hours_from_one_hour_on() -> None:
    assert cells(summary(many(36, 16 * 100, WIDE)), "clips ")[3] == "1.0 h"
    assert cells(summary(many(35, 16 * 100, WIDE)), "clips ")[3] == "58.3 min"


def test_buckets_with_steps_and_clips_for_continuations() -> None:
    # A continuation of 80 frames wants 73 before it.
    clips = [*many(6, 152, WIDE), *many(3, 153, WIDE, source="faces"), *many(5, 80, HIGH)]
    lines = summary(clips, [{}, {"path": "faces"}], slots=2)
    assert cells(lines, f"{WIDE} ") == [str(WIDE), "9", "1.4 min", "4", "3"]
    assert cells(lines, f"{HIGH} ") == [str(HIGH), "5", "0.4 min", "2", "0"]


def test_columns_are_aligned() -> None:
    lines = summary(
        [*many(1200, 80, WIDE), *many(5, 80, HIGH, source="a-long-name-of-a-source")], [{}, {"path": "a-long-name-of-a-source"}]
    )
    table = lines[2:5]
    assert table[0].startswith("source")
    assert len(set(map(len, table))) == 1  # the last column ends where its head does
    ends = [match.end() for match in re.finditer(r"clips|length|of an epoch|weight|repeats", table[0])]
    for line in table[1:]:
        assert all(line[end : end + 1] in ("", " ") and (line[end - 1] != " " or head == 3) for head, end in enumerate(ends))


def test_sounds_counted_by_the_interval_of_their_source() -> None:
    seconds = [0.5, 2.9, 3.0, 3.1, 7.4, 100.0]
    clips = [clip(f"clips/{s}", 80, WIDE, audio_s=s) for s in seconds]
    silent = [clip(f"faces/{i}", 80, WIDE, source="faces", audio=None, audio_s=0.0) for i in range(3)]
    spoken = [clip(f"faces/s{i}", 80, WIDE, source="faces", audio_s=5.0) for i in range(2)]
    lines = summary([*clips, *silent, *spoken], [{}, {"path": "faces", "duration_interval": 2.5}])
    at = lines.index("seconds of sound: clips")
    assert lines[at + 1 : at + 3] == ["  clips  0-3: 2, 3-6: 2, 6-9: 1, 99-102: 1", "  faces  5-7.5: 2, none: 3"]


def test_many_lengths_of_sound_end_in_one() -> None:
    clips = [clip(f"clips/{i}", 80, WIDE, audio_s=3.0 * i) for i in range(40)]
    name = "a source of a very long name " * 4
    for source, shown in (({}, 10), ({"path": "x", "name": name}, 5)):
        called = source.get("name", "clips")
        lines = summary([clip(c.clip_id, 80, WIDE, source=called, audio_s=c.audio_s) for c in clips], [source])
        counted = lines[lines.index("seconds of sound: clips") + 1]
        numbers = [int(number) for number in re.findall(r": (\d+)", counted)]
        assert sum(numbers) == 40
        assert numbers[:-1] == [1] * (len(numbers) - 1)
        assert len(numbers) >= shown + 1 if shown == 5 else len(numbers) == shown + 1
        assert counted.endswith(f"{3 * (len(numbers) - 1)} and more: {numbers[-1]}")


def test_clips_whose_sound_does_not_fit() -> None:
    apart = summary(many(4, 80, WIDE), num_mismatched=3, worst_mismatch="clips/a.mp4", worst_mismatch_s=0.734)
    assert apart[-2:] == ["sound and pictures begin or end more than 0.2 s apart in 3 clips, most in", "  clips/a.mp4: 0.73 s"]
    assert not [line for line in summary(many(4, 80, WIDE)) if "apart" in line or "rejected:" in line]


REASONS = [
    ("/d/clip.mp4", "too short: 12 frames at 16 a second, num_frames is 80", "too short"),
    ("/d/clip.mp4", "no caption: clip.txt is not there", "no caption"),
    ("/d/my holiday.mp4", "the caption my holiday.txt is empty", "the caption ... is empty"),
    ("/d/a.mp4", "the caption a.txt is empty", "the caption ... is empty"),
    ("/d/shard.tar/b.c.mp4", "the caption b.c.txt is not UTF-8", "the caption ... is not UTF-8"),
    ("/d/a.mp4", "damaged: Invalid data found when processing input", "damaged"),
    ("/d/a.mp4", "1.5 s of sound for 3.0 s of pictures", "# s of sound for # s of pictures"),
    ("/d/a.mp4", "the sound begins -1.2 s from the pictures", "the sound begins # s from the pictures"),
    (
        "/d/a.mp4",
        "640x36 would become 640x32; the network needs 64 pixels each way",
        "#x# would become #x#; the network needs # pixels each way",
    ),
    ("/d/a.mp4", "the same content as clips/x y/b.mp4", "the same content as ..."),
    ("/d/a.mp4", "clips/a.mp4 is already /data/season 1/a.mp4", "... is already ..."),
    ("/d/a.mp4", "two sounds: /d/a.wav and /d/a.mp3", "two sounds"),
    ("/d/a.mp4", "no audio stream", "no audio stream"),
    ("/d/a.mp4", "the pictures' clock runs to 1.5e+06 s", "the pictures' clock runs to # s"),
    ("/d/a.mp4", "", ""),
    ("", "the file is empty", "the file is empty"),
]


@pytest.mark.parametrize(("path", "reason", "shared"), REASONS)
def test_reasons_without_what_differs_between_clips(path: str, reason: str, shared: str) -> None:
    assert reason_of(Rejected(path, reason)) == shared


def test_rejected_clips_are_counted_by_reason_and_listed() -> None:
    rejected = [Rejected("/d/a b.mp4", "no audio stream")]
    rejected += [Rejected(f"/d/{i}.mp4", f"too short: {i} frames at 16 a second, num_frames is 80") for i in range(3)]
    lines = summary(many(4, 80, WIDE), rejected=rejected)
    assert lines[lines.index("4 clips are rejected:") :] == [
        "4 clips are rejected:",
        "        3  too short, such as /d/0.mp4",
        "        1  no audio stream, such as /d/a b.mp4",
        "each of them:",
        "  /d/a b.mp4: no audio stream",
        "  /d/0.mp4: too short: 0 frames at 16 a second, num_frames is 80",
        "  /d/1.mp4: too short: 1 frames at 16 a second, num_frames is 80",
        "  /d/2.mp4: too short: 2 frames at 16 a second, num_frames is 80",
    ]


def test_different_reasons_are_listed_once() -> None:
    rejected = [Rejected("/d/a.mp4", "no audio stream"), Rejected("/d/b.mp4", "the file is empty")]
    lines = summary(many(4, 80, WIDE), rejected=rejected)
    assert lines[-3:] == ["2 clips are rejected:", "  /d/a.mp4: no audio stream", "  /d/b.mp4: the file is empty"]


@pytest.mark.parametrize(("count", "last"), [(50, "  /d/49.mp4: no audio stream"), (51, "  and 1 more, in rejected.csv")])
def test_at_most_fifty_are_listed(count: int, last: str) -> None:
    lines = summary(many(4, 80, WIDE), rejected=[Rejected(f"/d/{i}.mp4", "no audio stream") for i in range(count)])
    assert lines[-1] == last
    assert sum(line.endswith(".mp4: no audio stream") for line in lines) == 50


def test_long_paths_keep_their_ends_and_long_reasons_their_beginnings() -> None:
    path, reason = f"/data/{'folder/' * 30}clip.mp4", f"cannot be opened: {'very ' * 60}badly"
    lines = summary(many(4, 80, WIDE), rejected=[Rejected(path, reason), Rejected(path, "no audio stream"), Rejected(path, reason)])
    assert "/folder/clip.mp4: cannot be opened: very " in lines[-3]
    assert lines[-3].endswith("...")
    assert lines[-2].endswith("/folder/clip.mp4: no audio stream")
    assert lines[-6].startswith("        2  cannot be opened, such as ...")
    assert lines[-6].endswith("/folder/clip.mp4")


def test_many_buckets_are_not_all_listed() -> None:
    buckets = [WIDE._replace(width=64 + 16 * index) for index in range(53)]
    lines = summary([one for bucket in buckets for one in many(4, 80, bucket)])
    assert lines[-1] == "  and 3 more"
    assert sum("x480@80 " in line for line in lines) == 50


def features(store: str, streams: bool) -> Features:
    return Features(store, streams, vae="", speech="", text="", dtype="fp16")


def test_shape_of_a_run() -> None:
    settings = job(slots=8, workers=2, batch_size=2, warmup_steps=10)
    plan = Plan.of(settings, many(21, 80, WIDE))
    assert run_summary(settings, plan, [], features("", True), 100, 0).split("\n") == [
        "100 steps of 8 clips (2 workers x 2 turns x 2); ZeRO-2, bf16",
        "an epoch is 2 steps and leaves out 5 clips, others each time",
        "features are encoded as they are needed and not kept",
    ]


def test_shape_of_a_run_with_any_number_of_workers() -> None:
    settings = job(slots=8, workers={"min": 3, "max": 8})
    plan = Plan.of(settings, many(21, 80, WIDE))
    assert run_summary(settings, plan, [], features("", True), 100, 0).startswith(
        "100 steps of 8 clips (3 to 8 workers x 3 to 1 turns x 1); "
    )


def test_held_out_loss_of_a_run() -> None:
    given = job(slots=4, sources=[{}, {"path": "eval", "is_eval": True}])
    clips = many(2, 240, WIDE, source="eval")
    rows = held_out_rows(clips, given.data.sources, most=8)
    line = "the loss of 2 held-out clips in 4 windows is taken at 4 levels of noise every 250 steps"
    plan = Plan.of(given, many(4, 80, WIDE))
    assert line in run_summary(given, plan, rows, features("", True), 100, 0).split("\n")
    assert "held-out" not in run_summary(given, plan, [], features("", True), 100, 0)


@pytest.mark.parametrize(
    ("settings", "first_step", "line"),
    [
        (features("/runs/store", True), 0, "features come from /runs/store; encoders run for those that are not there"),
        (features("/runs/store", False), 0, "features all come from /runs/store; no encoders run"),
        (features("", True), 40, "going on from the checkpoint of step 40"),
        (features("", True), 0, "the learning rate warms up for 100 steps, all that there are: lower training.warmup_steps"),
    ],
)
def test_what_else_there_is_to_say_of_a_run(settings: Features, first_step: int, line: str) -> None:
    whole = job(slots=4, warmup_steps=100)
    lines = run_summary(whole, Plan.of(whole, many(4, 80, WIDE)), [], settings, 100, first_step).split("\n")
    assert line in lines
    assert "an epoch is 1 steps" in lines
    longer = run_summary(whole, Plan.of(whole, many(4, 80, WIDE)), [], settings, 101, 0)
    assert "warms up" not in longer
    assert "going on" not in longer
