"""What a row shows: what must hold for every set of clips and settings, and shares over many draws against their closed forms."""

import pickle
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_s2v.config.job import Dropout
from ray_s2v.data.plan import Plan, can_continue, guidance_dropout
from ray_s2v.data.window import min_history
from ray_s2v.schema import Bucket, Clip, DataError, Media, PlanRow
from tests.plans import BUCKETS, NO_DROPOUT, clip, epoch_rows, job, many

PROPERTY = settings(deadline=None, database=None, derandomize=True, max_examples=40)
SMALL = Bucket(64, 64, 16)


def plan_of(clips: list[Clip], slots: int = 1, source: dict[str, Any] | None = None, **changes: Any) -> Plan:
    """A plan of the source `clips` with these options."""
    return Plan.of(job(slots, sources=[source or {}], **changes), clips)


@st.composite
def options(draw: st.DrawFn) -> dict[str, Any]:
    window = draw(st.sampled_from(["beginning", "end", "random"]))
    return {
        "window": window,
        "windows_per_clip": draw(st.none() | st.integers(min_value=1, max_value=3)) if window == "random" else None,
        "crop": draw(st.sampled_from(["center", "random", "corner"])),
        "repeats": draw(st.integers(min_value=0, max_value=2)),
        "truncation_mode": draw(st.sampled_from(["beginning", "end", "random"])),
        "duration_interval": draw(st.floats(min_value=0.25, max_value=30)),
    }


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Plans of one source with any options, of clips from just long enough to five minutes long, with or without margin and sound."""
    slots = draw(st.integers(min_value=1, max_value=4))
    clips = []
    for bucket in draw(st.lists(st.sampled_from(BUCKETS), min_size=1, max_size=3, unique=True)):
        for i, extra in enumerate(draw(st.lists(st.integers(0, 200) | st.integers(0, 5000), min_size=slots, max_size=3 * slots))):
            num_frames = bucket.num_frames + extra
            changes: dict[str, Any] = {
                "captions": tuple("abc"[: 1 + i % 3]),
                "scaled_width": bucket.width + draw(st.sampled_from([0, 0, 1, 40])),
                "scaled_height": bucket.height + draw(st.sampled_from([0, 0, 1, 40])),
                "audio_s": num_frames / 16 + draw(st.floats(min_value=-0.2, max_value=1)),
            }
            if not draw(st.integers(min_value=0, max_value=3)):
                changes |= {"audio": None, "audio_s": 0.0}
            clips.append(clip(f"{bucket}/{i}", num_frames, bucket, **changes))
    share = st.floats(min_value=0, max_value=1)
    dropout = {name: draw(share) / 3.01 for name in NO_DROPOUT}
    seed = draw(st.integers(min_value=0, max_value=2**63 - 1))
    return plan_of(draw(st.permutations(clips)), slots, draw(options()), seed=seed, continuation=draw(share), dropout=dropout)


@PROPERTY
@given(plans(), st.integers(min_value=0, max_value=5))
def test_windows_lie_in_their_clips(plan: Plan, epoch: int) -> None:
    clips = {c.clip_id: c for c in plan.clips}
    for row in epoch_rows(plan, epoch):
        of = clips[row["clip_id"]]
        assert (row["width"], row["height"], row["num_frames"]) == of.bucket
        start, end = row["start_frame"], row["start_frame"] + row["num_frames"]
        # A first clip of n frames gives n - 3 to go on from; the motion packer takes 73 at most.
        assert start >= (min(73, row["num_frames"] - 3) if row["kind"] == "continuation" else 0)
        assert end <= of.num_frames == row["clip_frames"]
        assert 0 <= row["reference_frame"] < of.num_frames
        if of.num_frames > row["num_frames"]:
            assert not start <= row["reference_frame"] < end
        assert 0 <= row["left"] <= of.scaled_width - row["width"]
        assert 0 <= row["top"] <= of.scaled_height - row["height"]
        assert (row["scaled_width"], row["scaled_height"]) == (of.scaled_width, of.scaled_height)
        assert row["caption"] in {"", *of.captions}
        assert 0 <= row["noise_level"] < 1
        assert 0 <= row["noise_seed"] < 2**63
        assert row["drop_audio"] or of.audio


@PROPERTY
@given(plans(), st.integers(min_value=0, max_value=5))
def test_the_part_of_the_sound_that_is_heard_holds_the_window(plan: Plan, epoch: int) -> None:
    clips, source = {c.clip_id: c for c in plan.clips}, plan.sources["clips"]
    for row in epoch_rows(plan, epoch):
        of = clips[row["clip_id"]]
        if of.audio_s <= 120:
            assert (row["heard_start"], row["heard_frames"]) == (0, 0)
            continue
        grid = round(source.duration_interval * 16)
        begin, end = row["heard_start"], row["heard_start"] + row["heard_frames"]
        window = range(row["start_frame"], row["start_frame"] + row["num_frames"])
        assert begin % grid == end % grid == 0
        assert 0 <= begin <= window.start < window.stop <= end
        assert 120 * 16 - grid < end - begin <= 120 * 16
        # Beyond the end of sound and pictures by less than one step of the grid.
        assert end - grid < max(of.audio_s * 16, of.num_frames)
        # One step of the grid further it would not hold the window, or lie beyond the ends.
        if source.truncation_mode == "beginning":
            assert begin + grid > window.start or end >= max(of.audio_s * 16, of.num_frames)
        if source.truncation_mode == "end":
            assert end - grid < window.stop or begin == 0


@pytest.mark.parametrize(
    ("mode", "interval", "window", "expected"),
    [
        # A grid of 3 s is 48 frames, of which 40 are 1920 frames; 3000 frames end in the 63rd.
        ("beginning", 3.0, "beginning", {(0, 1920)}),
        ("end", 3.0, "beginning", {(0, 1920)}),
        ("beginning", 3.0, "end", {(23 * 48, 1920)}),
        ("end", 3.0, "end", {(23 * 48, 1920)}),
        # The window 2984..3000 needs one that ends from 3000 on: only the last.
        ("random", 3.0, "end", {(23 * 48, 1920)}),
        ("random", 3.0, "beginning", {(0, 1920)}),
        # A grid of 7 s is 112 frames, of which 17 are 1904; 3000 frames end in the 27th.
        ("end", 7.0, "end", {(10 * 112, 1904)}),
    ],
)
def test_heard_part_at_the_ends_of_a_clip(mode: str, interval: float, window: str, expected: set[tuple[int, int]]) -> None:
    source = {"truncation_mode": mode, "duration_interval": interval, "window": window}
    plan = plan_of([clip("one", 3000, SMALL)], source=source, continuation=0.0)
    assert {(row["heard_start"], row["heard_frames"]) for row in plan.rows(0, 50)} == expected


@pytest.mark.parametrize("mode", ["beginning", "end", "random"])
def test_heard_part_of_a_sound_that_ends_before_the_pictures_holds_the_last_window_too(mode: str) -> None:
    """On a grid of 4 frames, 1920 frames up to the 3000th; the sound ends at the 2986th."""
    source = {"truncation_mode": mode, "duration_interval": 0.25, "window": "end"}
    (row,) = plan_of([clip("one", 3000, SMALL, audio_s=3000 / 16 - 0.9)], source=source).rows(0, 1)
    assert (row["heard_start"], row["heard_frames"]) == (1080, 1920)


def test_heard_parts_drawn_are_all_that_hold_the_window() -> None:
    source = {"truncation_mode": "random", "duration_interval": 30.0}
    plan = plan_of([clip("one", 6000, SMALL)], source=source, continuation=0.0)
    rows = list(plan.rows(0, 1500))
    middle = {row["heard_start"] // 480 for row in rows if 5 * 480 <= row["start_frame"] <= 6 * 480 - 16}
    assert middle == {2, 3, 4, 5}


@pytest.mark.parametrize("audio_s", [119.9, 120.0])
def test_a_sound_of_two_minutes_is_heard_whole(audio_s: float) -> None:
    plan = plan_of([clip("one", 1920, SMALL, audio_s=audio_s)], source={"truncation_mode": "random"})
    assert {(row["heard_start"], row["heard_frames"]) for row in plan.rows(0, 20)} == {(0, 0)}


@PROPERTY
@given(plans(), st.integers(min_value=0, max_value=20))
def test_same_twice_whatever_the_order_of_the_clips_and_after_a_journey(plan: Plan, first: int) -> None:
    source = plan.sources["clips"].model_dump()
    facts = {"seed": plan.order.seed, "continuation": plan.order.continuation, "dropout": plan.dropout.model_dump()}
    again = plan_of(list(plan.clips)[::-1], plan.slots, source, **facts)
    rows = list(plan.rows(first, first + 5))
    assert list(again.rows(first, first + 5)) == rows
    assert list(pickle.loads(pickle.dumps(plan)).rows(first, first + 5)) == rows  # noqa: S301
    assert again.fingerprint() == plan.fingerprint()


@PROPERTY
@given(plans(), st.lists(st.integers(min_value=0, max_value=40), min_size=3, max_size=3).map(sorted))
def test_going_on_anywhere_gives_the_rows_of_the_whole_run(plan: Plan, steps: list[int]) -> None:
    first, middle, end = steps
    rows = list(plan.rows(first, end))
    assert [*plan.rows(first, middle), *plan.rows(middle, end)] == rows
    assert len(rows) == (end - first) * plan.slots


def test_files_of_a_row_are_its_clips() -> None:
    own, wav, pose = (Media(f"/data/{name}", name) for name in ("x.mp4", "x.wav", "x_pose.mp4"))
    clips = [
        clip("a", 80, BUCKETS[0], video=own, audio=wav, pose=pose),
        clip("b", 80, BUCKETS[0], video=own, audio=None, audio_s=0.0, captions=("one", "two")),
    ]
    plan = plan_of(clips, slots=2, dropout=NO_DROPOUT)
    assert list(plan.clips) == clips
    names = ("video", "video_digest", "audio", "audio_digest", "pose", "pose_digest", "drop_audio")
    by_id = {row["clip_id"]: tuple(row[name] for name in names) for row in plan.rows(0, 1)}  # type: ignore[literal-required]
    assert by_id == {
        "a": ("/data/x.mp4", "x.mp4", "/data/x.wav", "x.wav", "/data/x_pose.mp4", "x_pose.mp4", False),
        "b": ("/data/x.mp4", "x.mp4", "", "", "", "", True),
    }


def test_epochs_differ() -> None:
    plan = plan_of(many(42, 200, BUCKETS[0]) + many(9, 60, BUCKETS[2]), slots=4)
    epochs = [epoch_rows(plan, epoch) for epoch in range(6)]
    orders = [tuple(row["clip_id"] for row in rows) for rows in epochs]
    assert len(set(orders)) == 6
    left_over = [{c.clip_id for c in plan.clips} - set(order) for order in orders]
    assert all(len(left) == plan.left_over == 3 for left in left_over)
    assert len(set(map(frozenset, left_over))) > 1
    starts = [{row["clip_id"]: row["start_frame"] for row in rows} for rows in epochs]
    assert starts[0] != {name: starts[1].get(name) for name in starts[0]}
    seeds = [row["noise_seed"] for rows in epochs for row in rows]
    assert len(set(seeds)) == len(seeds)


def test_seeds_differ() -> None:
    clips = many(12, 200, BUCKETS[0])
    orders = {tuple(row["clip_id"] for row in plan_of(clips, 4, seed=seed).rows(0, 3)) for seed in range(5)}
    assert len(orders) == 5


def test_buckets_take_turns() -> None:
    """The steps of an epoch are shuffled, each time anew, not one bucket after the other."""
    plan = plan_of([c for bucket in BUCKETS[:2] for c in many(40, 80, bucket)], slots=4)
    epochs = [tuple(row["width"] for row in epoch_rows(plan, epoch)[:: plan.slots]) for epoch in range(5)]
    assert len(set(epochs)) == 5
    assert all(sum(one != next_one for one, next_one in pairwise(widths)) > 3 for widths in epochs)


def test_repeats_are_seen_in_other_company_and_other_windows() -> None:
    """20 clips, each 4 times, in 20 steps of 4: no two of them always together, and no window and noise the same."""
    plan = plan_of(many(20, 2000, BUCKETS[0]), slots=4, source={"repeats": 3}, continuation=0.0)
    rows = epoch_rows(plan, 0)
    assert set(Counter(row["clip_id"] for row in rows).values()) == {4}
    steps = [frozenset(row["clip_id"] for row in rows[i : i + 4]) for i in range(0, 80, 4)]
    assert all(len(step) == 4 for step in steps)
    assert len(set(steps)) == 20
    assert len({(row["clip_id"], row["start_frame"]) for row in rows}) > 70
    assert len({row["noise_seed"] for row in rows}) == 80


def test_a_clip_of_more_visits_than_steps_is_left_out_first() -> None:
    """9 visits of one clip and one of each of 8 others, in 4 steps of 4: all others, and that clip twice in each step, not thrice."""
    sources = [{"name": "a", "repeats": 8}, {"name": "b"}]
    plan = Plan.of(job(4, sources=sources), [*many(1, 80, BUCKETS[0], source="a"), *many(8, 80, BUCKETS[0], source="b")])
    for epoch in range(5):
        rows = epoch_rows(plan, epoch)
        seen = Counter(row["clip_id"][0] for row in rows)
        assert seen == {"a": 8, "b": 8}
        for i in range(0, 16, 4):
            assert sum(row["clip_id"].startswith("a/") for row in rows[i : i + 4]) == 2


def test_a_clip_of_as_many_visits_as_steps_is_in_each_of_either_kind() -> None:
    """4 visits of one clip and one of each of 12 others, in 4 steps of 4, of which 2 are continuations."""
    sources = [{"name": "a", "repeats": 3}, {"name": "b"}]
    plan = Plan.of(job(4, sources=sources), [*many(1, 200, BUCKETS[0], source="a"), *many(12, 200, BUCKETS[0], source="b")])
    for epoch in range(10):
        rows = epoch_rows(plan, epoch)
        assert [row["step"] for row in rows if row["clip_id"].startswith("a/")] == [*range(4 * epoch, 4 * epoch + 4)]
        assert Counter(row["kind"] for row in rows) == {"first": 8, "continuation": 8}


@pytest.mark.parametrize("continuation", [0.0, 0.05, 0.3, 0.5, 0.77, 1.0])
def test_share_of_continuations_is_met_over_epochs(continuation: float) -> None:
    """Of 5 steps an epoch; the fraction of a step is a coin, whose deviation over n epochs is at most 0.5 / sqrt(n) steps."""
    num_epochs = 400
    plan = plan_of(many(21, 153, BUCKETS[0]), slots=4, continuation=continuation)
    counts = [int(plan.order.epoch(epoch).continued.sum()) for epoch in range(num_epochs)]
    assert np.mean(counts) == pytest.approx(5 * continuation, abs=4 * 0.5 / num_epochs**0.5)
    assert max(counts) - min(counts) <= 1


def test_continuations_take_long_clips_only_as_far_as_they_go() -> None:
    bucket = BUCKETS[0]
    plan = plan_of(many(9, 152, bucket) + [clip(f"long/{i}", 153, bucket) for i in range(11)], slots=4, continuation=1.0)
    for epoch in range(20):
        rows = epoch_rows(plan, epoch)
        continued = [row for row in rows if row["kind"] == "continuation"]
        assert len(continued) == 8
        assert len(rows) == 20
        assert all(row["clip_id"].startswith("long/") and row["start_frame"] == 73 for row in continued)


@pytest.mark.parametrize(
    ("num_frames", "history", "shortest"), [(80, 73, 153), (76, 73, 149), (72, 69, 141), (48, 45, 93), (16, 13, 29), (4, 1, 5)]
)
def test_history_of_a_continuation(num_frames: int, history: int, shortest: int) -> None:
    """What the sampler has after one clip of that length, of which it drops 3 frames: 73 at most."""
    assert min_history(num_frames) == history
    bucket = Bucket(64, 64, num_frames)
    assert can_continue(clip("just", shortest, bucket))
    assert not can_continue(clip("short", shortest - 1, bucket))


@pytest.mark.parametrize(("continuation", "starts"), [(0.0, range(21)), (1.0, range(13, 21))])
def test_every_window_and_every_reference_of_a_clip_comes_up(continuation: float, starts: range) -> None:
    rows = list(plan_of([clip("one", 36, SMALL)], continuation=continuation).rows(0, 1500))
    assert {row["start_frame"] for row in rows} == set(starts)
    # All but a few of 20 frames in 70 draws or more.
    for start in starts:
        references = {row["reference_frame"] for row in rows if row["start_frame"] == start}
        assert references <= {*range(start), *range(start + 16, 36)}
        assert len(references) >= 15
    assert {row["reference_frame"] for row in rows} == {frame for start in starts for frame in (*range(start), *range(start + 16, 36))}


@pytest.mark.parametrize(
    ("window", "continuation", "start"), [("beginning", 0.0, 0), ("beginning", 1.0, 13), ("end", 0.0, 84), ("end", 1.0, 84)]
)
def test_window_at_an_end(window: str, continuation: float, start: int) -> None:
    """A continuation's earliest window is behind the 13 frames that it goes on from."""
    plan = plan_of([clip("one", 100, SMALL)], source={"window": window}, continuation=continuation)
    rows = list(plan.rows(0, 100))
    assert {row["start_frame"] for row in rows} == {start}
    assert len({row["reference_frame"] for row in rows}) > 30


def test_windows_per_clip_bounds_what_is_seen_of_a_clip_and_not_its_noise() -> None:
    source = {"windows_per_clip": 3, "crop": "random", "truncation_mode": "random"}
    clips = [clip(f"c{i}", 4000, SMALL, captions=("a", "b"), scaled_width=10_064) for i in range(4)]
    rows = list(plan_of(clips, 2, source).rows(0, 200))
    names = ("start_frame", "reference_frame", "left", "top", "heard_start", "heard_frames")
    windows = Counter((row["clip_id"], row["kind"], tuple(row[name] for name in names)) for row in rows)  # type: ignore[literal-required]
    of_each = Counter((name, kind) for name, kind, _ in windows)
    assert of_each == {(c.clip_id, kind): 3 for c in clips for kind in ("first", "continuation")}
    # Each drawn by itself, of 10,001 places.
    assert len({window[2] for _, _, window in windows}) == 24
    # 400 rows on 24 windows: 16.7 each; one of them comes up 3 times or less for one seed in a thousand.
    assert min(windows.values()) > 3
    assert len({row["noise_seed"] for row in rows}) == 400
    assert {row["caption"] for row in rows} == {"", "a", "b"}


def test_windows_per_clip_changes_neither_order_nor_words_nor_noise() -> None:
    clips = many(6, 400, SMALL, captions=("a", "b", "c"))
    bounded, free = (list(plan_of(clips, 2, {"windows_per_clip": number}).rows(0, 20)) for number in (2, None))
    names = ("clip_id", "kind", "caption", "drop_audio", "noise_level", "noise_seed")
    for one, other in zip(bounded, free, strict=True):
        assert all(one[name] == other[name] for name in names)  # type: ignore[literal-required]


@pytest.mark.parametrize(
    ("crop", "corners"),
    [
        ("center", {(1, 0)}),
        ("corner", {(0, 0)}),
        ("random", {(left, top) for left in range(4) for top in range(2)}),
    ],
)
def test_crop_takes_its_part_of_the_margin(crop: str, corners: set[tuple[int, int]]) -> None:
    """Of 3 pixels across and 1 down; drawn corners come up alike: each of 8 in 800 draws 100 times, with a deviation of 9.4."""
    plan = plan_of([clip("one", 80, SMALL, scaled_width=67, scaled_height=65)], source={"crop": crop})
    counts = Counter((row["left"], row["top"]) for row in plan.rows(0, 800))
    assert set(counts) == corners
    assert all(abs(count - 800 / len(corners)) < 40 for count in counts.values())


def test_no_crop_shows_the_whole_picture() -> None:
    source = {"crop": "none", "resolution": 64, "resolution_type": "pixel"}
    rows = list(plan_of([clip("one", 80, SMALL)], source=source).rows(0, 5))
    assert {(row["left"], row["top"], row["scaled_width"], row["scaled_height"]) for row in rows} == {(0, 0, 64, 64)}


def test_each_source_has_its_own_options() -> None:
    sources = [{"name": "a", "window": "beginning", "crop": "corner"}, {"name": "b", "window": "end", "crop": "center"}]
    clips = [clip(f"{name}/{i}", 100, SMALL, source=name, scaled_width=164) for name in "ab" for i in range(3)]
    rows = list(Plan.of(job(2, continuation=0.0, sources=sources), clips).rows(0, 9))
    assert {(row["clip_id"][0], row["start_frame"], row["left"]) for row in rows} == {("a", 0, 0), ("b", 84, 50)}


def test_clip_without_a_frame_outside_its_window_is_its_own_reference() -> None:
    plan = plan_of([clip("one", 16, SMALL)])
    assert {(row["start_frame"], row["reference_frame"]) for row in plan.rows(0, 20)} == {(0, 0)}


def test_captions_take_turns() -> None:
    plan = plan_of([clip("one", 80, BUCKETS[0], captions=("a", "b", "c"))], dropout=NO_DROPOUT)
    counts = Counter(row["caption"] for row in plan.rows(0, 900))
    assert counts.keys() == {"a", "b", "c"}
    assert all(abs(count - 300) < 4 * (900 * 2 / 9) ** 0.5 for count in counts.values())


shares = st.tuples(*[st.integers(min_value=0, max_value=333)] * 3)


@PROPERTY
@given(shares)
def test_guidance_dropout_cuts_the_unit_interval_into_its_shares(thousandths: tuple[int, int, int]) -> None:
    text, audio, both = thousandths
    dropout = Dropout(text=text / 1000, audio=audio / 1000, both=both / 1000)
    counts = Counter(guidance_dropout((i + 0.5) / 1000, dropout) for i in range(1000))
    expected = {(True, True): both, (True, False): text, (False, True): audio, (False, False): 1000 - text - audio - both}
    assert counts == Counter({outcome: count for outcome, count in expected.items() if count})


@pytest.mark.parametrize("uniform", [0.0, 0.25, 0.5, 0.999999])
def test_guidance_dropout_of_all_and_of_none(uniform: float) -> None:
    assert guidance_dropout(uniform, Dropout(text=0, audio=0, both=0)) == (False, False)
    assert guidance_dropout(uniform, Dropout(text=0, audio=0, both=1)) == (True, True)
    assert guidance_dropout(uniform, Dropout(text=1, audio=0, both=0)) == (True, False)
    assert guidance_dropout(uniform, Dropout(text=0, audio=1, both=0)) == (False, True)


def test_dropout_and_noise_levels_over_many_rows() -> None:
    count = 4000
    plan = plan_of(many(20, 100, BUCKETS[0]), slots=4, dropout={"text": 0.05, "audio": 0.1, "both": 0.2})
    rows = list(plan.rows(0, count // plan.slots))
    dropped = Counter((row["caption"] == "", row["drop_audio"]) for row in rows)
    for outcome, share in {(True, True): 0.2, (True, False): 0.05, (False, True): 0.1, (False, False): 0.65}.items():
        assert abs(dropped[outcome] - share * count) < 4 * (count * share * (1 - share)) ** 0.5
    # Kolmogorov and Smirnov: a distance above 1.95 / sqrt(n) comes up once in a thousand times.
    for values in ([row["noise_level"] for row in rows], [row["noise_level"] for row in rows if row["caption"] == ""]):
        ordered = np.sort(values)
        assert np.abs(ordered - (np.arange(len(ordered)) + 0.5) / len(ordered)).max() < 1.95 / len(ordered) ** 0.5
    assert len({row["noise_level"] for row in rows}) == count


BASE_CLIPS = [*many(6, 200, BUCKETS[0]), *many(5, 60, BUCKETS[2])]


def with_first(**changes: Any) -> list[Clip]:
    return [clip(BASE_CLIPS[0].clip_id, **({"num_frames": 200, "bucket": BUCKETS[0]} | changes)), *BASE_CLIPS[1:]]


def fingerprint(clips: list[Clip] = BASE_CLIPS, slots: int = 4, **changes: Any) -> str:
    return plan_of(clips, slots, **changes).fingerprint()


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"slots": 5},
        {"continuation": 0.51},
        {"dropout": {"text": 0.06}},
        {"dropout": {"audio": 0.06}},
        {"dropout": {"both": 0.06}},
        {"source": {"repeats": 1}},
        {"source": {"weight": 1}},
        {"source": {"crop": "random"}},
        {"source": {"window": "end"}},
        {"source": {"windows_per_clip": 4}},
        {"source": {"truncation_mode": "end"}},
        {"source": {"duration_interval": 4}},
        {"clips": BASE_CLIPS[1:]},
        {"clips": [*BASE_CLIPS, clip("more", 80, BUCKETS[0])]},
        {"clips": [clip("other", 200, BUCKETS[0]), *BASE_CLIPS[1:]]},
        {"clips": with_first(num_frames=201)},
        {"clips": with_first(bucket=BUCKETS[2])},
        {"clips": with_first(scaled_width=900)},
        {"clips": with_first(scaled_height=500)},
        {"clips": with_first(audio_s=12.4)},
        {"clips": with_first(audio=None)},
        {"clips": with_first(pose=Media("/data/pose", "pose"))},
    ],
)
def test_fingerprint_changes_with_what_the_plan_depends_on(other: dict[str, Any]) -> None:
    assert fingerprint(**other) != fingerprint()


def test_fingerprint_does_not_change_with_anything_else() -> None:
    elsewhere = Media("/elsewhere", "written anew")
    moved = [
        clip(c.clip_id, c.num_frames, c.bucket, video=elsewhere, audio=elsewhere, captions=("other", "words")) for c in reversed(BASE_CLIPS)
    ]
    assert fingerprint(moved) == fingerprint()
    assert fingerprint(workers=2, batch_size=2, learning_rate=1e-3, steps=99) == fingerprint()
    assert fingerprint(source={"path": "/moved/clips", "max_frames": 1000}) == fingerprint()


def rows_without_words(clips: list[Clip]) -> list[PlanRow]:
    return [row | {"caption": "", "video": "", "video_digest": ""} for row in plan_of(clips, 2).rows(0, 20)]  # type: ignore[misc]


def test_number_of_captions_changes_nothing_else() -> None:
    assert rows_without_words(many(5, 200, SMALL)) == rows_without_words(many(5, 200, SMALL, captions=("a", "b", "c")))


def test_small_buckets_are_named_and_the_others_not() -> None:
    clips = [*many(8, 80, BUCKETS[0]), *many(3, 80, BUCKETS[1]), *many(4, 48, BUCKETS[2]), *many(1, 16, BUCKETS[3])]
    with pytest.raises(DataError) as caught:
        plan_of(clips, slots=4)
    message = str(caught.value)
    assert "480x832@80 has 3" in message
    assert "64x64@16 has 1" in message
    assert "832x480@80" not in message
    assert "832x480@48" not in message
    assert all(part in message for part in ("training.global_batch = 4", "repeats", "weight", "aspect_rounding"))


def test_repeats_fill_a_bucket() -> None:
    clips = [*many(8, 80, BUCKETS[0]), *many(2, 80, BUCKETS[1])]
    with pytest.raises(DataError, match="480x832@80 has 2"):
        plan_of(clips, slots=4)
    plan = plan_of(clips, slots=4, source={"repeats": 1})
    assert (plan.steps_per_epoch, plan.left_over) == (5, 0)


def test_a_weight_too_low_for_a_bucket_is_refused() -> None:
    """Of 20 visits a tenth is 2, for a bucket that needs 4; a fifth is 4."""
    clips = [*many(10, 80, BUCKETS[0], source="a"), *many(10, 80, BUCKETS[1], source="b")]
    with pytest.raises(DataError, match=r"weight, 480x832@80 has 2\."):
        Plan.of(job(4, sources=[{"name": "a", "weight": 9}, {"name": "b", "weight": 1}]), clips)
    assert Plan.of(job(4, sources=[{"name": "a", "weight": 4}, {"name": "b", "weight": 1}]), clips).steps_per_epoch == 5


def test_a_weight_without_clips_is_refused() -> None:
    sources = [{"name": "a", "weight": 9}, {"name": "b", "weight": 1}]
    with pytest.raises(DataError, match="b has a weight, but no clip"):
        Plan.of(job(4, sources=sources), many(10, 80, BUCKETS[0], source="a"))


def test_bucket_that_just_fills_a_step_is_enough() -> None:
    plan = plan_of(many(4, 80, BUCKETS[0]), slots=4)
    assert (plan.steps_per_epoch, plan.left_over) == (1, 0)


def test_no_clips_make_no_plan() -> None:
    with pytest.raises(DataError):
        plan_of([])
