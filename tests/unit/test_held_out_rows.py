"""Rows of held-out clips: what they show, and all that must not change them."""

import hashlib
import json
import random
from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_s2v.config.source import Source
from ray_s2v.data.held_out import held_out_rows, shared_out
from ray_s2v.data.window import can_continue, min_history
from ray_s2v.schema import Bucket, Clip, Media, PlanRow
from tests.plans import BUCKETS, clip

PROPERTY = settings(deadline=None, database=None, derandomize=True, max_examples=40)
SMALL = Bucket(64, 64, 16)
ALL = 10**6
PLACES = ("video", "audio", "pose")


def source(**options: Any) -> Source:
    return Source.model_validate({"path": "clips", "is_eval": True} | options)


def rows_of(clips: list[Clip], most: int = ALL, **options: Any) -> list[PlanRow]:
    return held_out_rows(clips, [source(**options), Source(path="trained/clips")], most)


def shown(rows: list[PlanRow]) -> dict[tuple[str, str], dict[str, Any]]:
    """What is seen and heard of each clip and kind, without the place in the list."""
    return {(row["clip_id"], row["kind"]): {name: value for name, value in row.items() if name != "slot"} for row in rows}


@st.composite
def clip_lists(draw: st.DrawFn) -> list[Clip]:
    clips = []
    for i, extra in enumerate(draw(st.lists(st.integers(0, 200) | st.integers(0, 5000), max_size=12))):
        bucket = draw(st.sampled_from(BUCKETS))
        num_frames = bucket.num_frames + extra
        changes: dict[str, Any] = {
            "captions": tuple("abc"[: 1 + i % 3]),
            "scaled_width": bucket.width + draw(st.sampled_from([0, 40])),
            "audio_s": num_frames / 16,
            "pose": draw(st.none() | st.just(Media("/data/pose", "digest of pose"))),
        }
        if not draw(st.integers(0, 3)):
            changes |= {"audio": None, "audio_s": 0.0}
        clips.append(clip(f"clips/{i}", num_frames, bucket, **changes))
    return clips


@st.composite
def options(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "window": draw(st.sampled_from(["beginning", "end", "random"])),
        "crop": draw(st.sampled_from(["center", "random", "corner"])),
        "truncation_mode": draw(st.sampled_from(["beginning", "end", "random"])),
    }


@PROPERTY
@given(clip_lists(), options())
def test_each_clip_is_a_first_clip_and_a_continuation_where_it_is_long_enough(clips: list[Clip], given_options: dict[str, Any]) -> None:
    rows = rows_of(clips, **given_options)
    expected = {(c.clip_id, "first") for c in clips} | {(c.clip_id, "continuation") for c in clips if can_continue(c)}
    assert len(rows) == len(expected)
    assert shown(rows).keys() == expected
    assert [(row["step"], row["slot"]) for row in rows] == [(0, slot) for slot in range(len(rows))]
    by_id = {c.clip_id: c for c in clips}
    for row in rows:
        own = by_id[row["clip_id"]]
        assert (row["width"], row["height"], row["num_frames"]) == own.bucket
        assert row["caption"] == "a" == own.captions[0]
        assert row["drop_audio"] == (own.audio is None)
        assert row["audio_digest"] == (own.audio.digest if own.audio else "")
        assert row["pose_digest"] == (own.pose.digest if own.pose else "")
        end = row["start_frame"] + row["num_frames"]
        assert (min_history(row["num_frames"]) if row["kind"] == "continuation" else 0) <= row["start_frame"]
        assert end <= own.num_frames
        assert own.num_frames == row["num_frames"] or not row["start_frame"] <= row["reference_frame"] < end
        assert 0 <= row["left"] <= own.scaled_width - own.bucket.width
        assert row["top"] == 0
        if row["heard_frames"]:
            assert row["heard_start"] <= row["start_frame"]
            assert end <= row["heard_start"] + row["heard_frames"]
        else:
            assert row["heard_start"] == 0
            assert own.audio_s <= 120


@PROPERTY
@given(clip_lists(), options(), st.integers(0, 10), st.randoms(use_true_random=False))
def test_nothing_but_a_clip_and_its_source_decides_what_is_shown_of_it(
    clips: list[Clip], given_options: dict[str, Any], count: int, order: random.Random
) -> None:
    rows = rows_of(clips, **given_options)
    shuffled = order.sample(clips, len(clips))
    assert rows_of(shuffled, **given_options) == rows
    fewer = shuffled[:count]
    ids = {c.clip_id for c in fewer}
    assert shown(rows_of(fewer, **given_options)) == {key: row for key, row in shown(rows).items() if key[0] in ids}
    moved = [replace(c, video=Media(f"s3://{c.clip_id}", c.video.digest)) for c in clips]
    without_places = [
        [{k: v for k, v in row.items() if k not in PLACES} for row in some] for some in (rows, rows_of(moved, **given_options))
    ]
    assert without_places[0] == without_places[1]


@PROPERTY
@given(clip_lists())
def test_equal_buckets_and_kinds_stand_together(clips: list[Clip]) -> None:
    groups = [(row["width"], row["height"], row["num_frames"], row["kind"]) for row in rows_of(clips)]
    assert len(set(groups)) == sum(1 for place, group in enumerate(groups) if not place or groups[place - 1] != group)


def test_a_clip_more_puts_at_most_one_other_out() -> None:
    clips = [clip(f"clips/{i}", 16, SMALL) for i in range(30)]
    seen: dict[str, int] = defaultdict(int)
    for left_out in clips:
        without = [row["clip_id"] for row in rows_of([c for c in clips if c is not left_out], most=8)]
        with_it = [row["clip_id"] for row in rows_of(clips, most=8)]
        assert len(without) == len(with_it) == 8
        if left_out.clip_id in with_it:
            assert [name for name in with_it if name != left_out.clip_id] == [name for name in without if name in with_it]
            assert len(set(without) - set(with_it)) == 1
        else:
            assert without == with_it
        seen[left_out.clip_id] += left_out.clip_id in with_it
    assert sum(seen.values()) == 8
    assert sorted(name for name, times in seen.items() if times) != sorted(seen)[:8], "not the first by name"


def test_most_counts_clips_and_not_rows() -> None:
    rows = rows_of([clip(f"clips/{i}", 200, SMALL) for i in range(5)], most=3)
    assert [row["kind"] for row in rows] == ["first"] * 3 + ["continuation"] * 3
    assert len({row["clip_id"] for row in rows}) == 3
    assert [row["clip_id"] for row in rows[:3]] == [row["clip_id"] for row in rows[3:]]


def test_no_clips_give_no_rows() -> None:
    assert rows_of([]) == []
    assert shared_out([], 3) == []


def test_what_is_left_to_chance_is_spread_over_clips_and_kinds() -> None:
    """Of 400 clips with 101 places for a window and 41 for a cut: means within four of their standard errors, no seed twice."""
    bucket = Bucket(64, 64, 16)
    clips = [clip(f"clips/{i}", 116, bucket, scaled_width=104) for i in range(400)]
    rows = [row for row in rows_of(clips, crop="random") if row["kind"] == "first"]
    for name, most in (("start_frame", 100), ("left", 40)):
        values = [row[name] for row in rows]  # type: ignore[literal-required]
        error = ((most + 1) ** 2 / 12 / len(values)) ** 0.5
        assert abs(sum(values) / len(values) - most / 2) < 4 * error
    assert len({row["noise_seed"] for row in rows_of(clips)}) == 800
    assert all(0 <= row["noise_seed"] < 2**63 for row in rows)


def test_sources_say_how_clips_are_shown() -> None:
    clips = [clip(f"clips/{i}", 200, SMALL, scaled_width=104, scaled_height=68) for i in range(3)]
    for row in rows_of(clips, window="end", crop="center"):
        assert (row["start_frame"], row["left"], row["top"]) == (184, 20, 2)
    for row in rows_of(clips, window="beginning", crop="corner"):
        assert (row["start_frame"], row["left"], row["top"]) == (13 if row["kind"] == "continuation" else 0, 0, 0)


@PROPERTY
@given(clip_lists(), st.integers(1, 5))
def test_workers_meet_the_same_shapes_in_the_same_order(clips: list[Clip], workers: int) -> None:
    rows = rows_of(clips)
    padded = shared_out(rows, workers)
    assert [row["slot"] for row in padded] == list(range(len(padded)))
    shares = [padded[worker::workers] for worker in range(workers)]
    shapes = [[(row["width"], row["height"], row["num_frames"], row["kind"]) for row in share] for share in shares]
    assert all(of_one == shapes[0] for of_one in shapes)
    assert shown(padded) == shown(rows), "nothing is left out, and repetitions are repetitions"
    first_met = list(dict.fromkeys((row["clip_id"], row["kind"]) for row in padded))
    assert first_met == [(row["clip_id"], row["kind"]) for row in rows]
    groups = defaultdict(int)
    for row in rows:
        groups[row["width"], row["height"], row["num_frames"], row["kind"]] += 1
    assert len(padded) == sum(-(-size // workers) * workers for size in groups.values()), "no more than is needed"
    assert shared_out(rows, 1) == rows


def test_what_is_drawn_is_a_digest_of_clip_and_kind() -> None:
    """Written out here: figures from before and after a change of the code can be compared only while this holds."""
    (row,) = (row for row in rows_of([clip("clips/a", 200, SMALL, scaled_width=104)], crop="random") if row["kind"] == "continuation")
    digest = hashlib.blake2b(json.dumps(["held out", "clips/a", "continuation"]).encode(), digest_size=16).digest()
    draw = np.random.default_rng(int.from_bytes(digest, "little"))
    assert row["noise_seed"] == draw.integers(2**63)
    for_start, for_reference, for_left, *_ = draw.random(5)
    start = 13 + int(172 * for_start)
    before = int(184 * for_reference)
    assert row["start_frame"] == start
    assert row["reference_frame"] == (before if before < start else before + 16)
    assert row["left"] == int(41 * for_left)
