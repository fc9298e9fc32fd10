"""Who is seen when: what must hold for every set of clips, and shares over many draws against their closed forms."""

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_s2v.config.job import Dropout, Job
from ray_s2v.data.plan import Plan, can_continue, epoch_steps, guidance_dropout, min_history
from ray_s2v.data.stream import worker_rows
from ray_s2v.schema import Bucket, Clip, DataError, PlanRow

PROPERTY = settings(deadline=None, database=None, derandomize=True, max_examples=40)
BUCKETS = [Bucket(832, 480, 80), Bucket(480, 832, 80), Bucket(832, 480, 48), Bucket(64, 64, 16), Bucket(64, 80, 4)]
NO_DROPOUT = {"text": 0.0, "audio": 0.0, "both": 0.0}


def job(slots: int = 4, seed: int = 0, continuation: float = 0.5, dropout: dict[str, float] | None = None, **training: Any) -> Job:
    return Job.model_validate(
        {
            "run": {"folder": "run", "seed": seed},
            "data": {"sources": [{"path": "clips"}]},
            "encoders": {"vae": {"path": "vae"}, "speech": {"path": "speech"}, "text": {"path": "text", "tokenizer": "text"}},
            "model": {"path": "model"},
            "training": {"steps": 1, "global_batch": slots, "continuation": continuation} | training,
            "dropout": dropout or {},
        }
    )


def clip(name: str, num_frames: int, bucket: Bucket, captions: tuple[str, ...] = ("a caption",)) -> Clip:
    return Clip(name, f"/data/{name}", captions, num_frames, bucket)


def many(count: int, num_frames: int, bucket: Bucket, captions: tuple[str, ...] = ("a caption",)) -> list[Clip]:
    return [clip(f"{bucket}/{i:03}", num_frames, bucket, captions) for i in range(count)]


@st.composite
def plans(draw: st.DrawFn, slots: int = 0) -> Plan:
    """Plans whose buckets all fill a step of `slots`, or else of 1 to 6, of clips from just long enough to some seconds longer."""
    slots = slots or draw(st.integers(min_value=1, max_value=6))
    clips = []
    for bucket in draw(st.lists(st.sampled_from(BUCKETS), min_size=1, max_size=3, unique=True)):
        extras = draw(st.lists(st.integers(min_value=0, max_value=200), min_size=slots, max_size=4 * slots))
        clips += [clip(f"{bucket}/{i}", bucket.num_frames + extra, bucket, tuple("abc"[: 1 + i % 3])) for i, extra in enumerate(extras)]
    share = st.floats(min_value=0, max_value=1)
    dropout = {name: draw(share) / 3.01 for name in NO_DROPOUT}
    return Plan.of(job(slots, draw(st.integers(min_value=0, max_value=2**64)), draw(share), dropout), draw(st.permutations(clips)))


def epoch_rows(plan: Plan, epoch: int) -> list[PlanRow]:
    length = plan.steps_per_epoch
    return list(plan.rows(epoch * length, (epoch + 1) * length))


@PROPERTY
@given(plans(), st.integers(min_value=0, max_value=5))
def test_an_epoch_sees_no_clip_twice_and_leaves_less_than_a_step_of_each_bucket(plan: Plan, epoch: int) -> None:
    rows = epoch_rows(plan, epoch)
    seen = Counter(row["clip_id"] for row in rows)
    assert max(seen.values()) == 1
    buckets = {c.clip_id: c.bucket for c in plan.clips}
    there, taken = Counter(buckets.values()), Counter(buckets[name] for name in seen)
    assert all(0 <= there[bucket] - taken[bucket] < plan.slots for bucket in there)
    assert len(plan.clips) - len(seen) == plan.left_over
    assert plan.steps_per_epoch == sum(count // plan.slots for count in there.values())


@PROPERTY
@given(plans(), st.integers(min_value=0, max_value=5))
def test_steps_are_whole_and_of_one_bucket_and_kind(plan: Plan, epoch: int) -> None:
    rows = epoch_rows(plan, epoch)
    first = epoch * plan.steps_per_epoch
    places = [(first + step, slot) for step in range(plan.steps_per_epoch) for slot in range(plan.slots)]
    assert [(row["step"], row["slot"]) for row in rows] == places
    for _, group in itertools.groupby(rows, key=lambda row: row["step"]):
        assert len({(row["width"], row["height"], row["num_frames"], row["kind"]) for row in group}) == 1


@PROPERTY
@given(plans(), st.integers(min_value=0, max_value=5))
def test_windows_lie_in_their_clips(plan: Plan, epoch: int) -> None:
    clips = {c.clip_id: c for c in plan.clips}
    for row in epoch_rows(plan, epoch):
        of = clips[row["clip_id"]]
        assert (row["path"], row["width"], row["height"], row["num_frames"]) == (of.path, *of.bucket)
        start, end = row["start_frame"], row["start_frame"] + row["num_frames"]
        # A first clip of n frames gives n - 3 to go on from; the motion packer takes 73 at most.
        assert start >= (min(73, row["num_frames"] - 3) if row["kind"] == "continuation" else 0)
        assert end <= of.num_frames
        assert 0 <= row["reference_frame"] < of.num_frames
        if of.num_frames > row["num_frames"]:
            assert not start <= row["reference_frame"] < end
        assert row["caption"] in {"", *of.captions}
        assert 0 <= row["noise_level"] < 1
        assert 0 <= row["noise_seed"] < 2**63


@PROPERTY
@given(plans(), st.integers(min_value=0, max_value=20))
def test_same_twice_whatever_the_order_of_the_clips(plan: Plan, first: int) -> None:
    again = Plan.of(job(plan.slots, plan.seed, plan.continuation, plan.dropout.model_dump()), plan.clips[::-1])
    rows = list(plan.rows(first, first + 5))
    assert list(plan.rows(first, first + 5)) == rows
    assert list(again.rows(first, first + 5)) == rows
    assert again.fingerprint() == plan.fingerprint()


@PROPERTY
@given(plans(), st.lists(st.integers(min_value=0, max_value=40), min_size=3, max_size=3).map(sorted))
def test_going_on_anywhere_gives_the_rows_of_the_whole_run(plan: Plan, steps: list[int]) -> None:
    first, middle, end = steps
    rows = list(plan.rows(first, end))
    assert [*plan.rows(first, middle), *plan.rows(middle, end)] == rows
    assert len(rows) == (end - first) * plan.slots


@PROPERTY
@given(plans(slots=4), st.sampled_from([1, 2, 4]), st.integers(min_value=0, max_value=9))
def test_workers_share_each_step_whatever_their_number(plan: Plan, workers: int, first: int) -> None:
    """Each worker takes as many rows a step as any other, passes `worker_rows`, and together they see what one worker would."""
    rows = list(plan.rows(first, first + 4))
    together: dict[int, list[PlanRow]] = {step: [] for step in range(first, first + 4)}
    for worker in range(workers):
        share = list(worker_rows(rows[worker::workers], range(first, first + 4), 4, worker, workers))
        assert [row["step"] for row in share] == sorted(list(together) * (4 // workers))
        for row in share:
            together[row["step"]].append(row)
    for step, seen in together.items():
        assert sorted(seen, key=lambda row: row["slot"]) == list(plan.rows(step, step + 1))


def test_epochs_differ() -> None:
    plan = Plan.of(job(), many(42, 200, BUCKETS[0]) + many(9, 60, BUCKETS[2]))
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
    orders = {tuple(row["clip_id"] for row in Plan.of(job(seed=seed), clips).rows(0, 3)) for seed in range(5)}
    assert len(orders) == 5


def test_buckets_take_turns() -> None:
    """The steps of an epoch are shuffled, not one bucket after the other."""
    plan = Plan.of(job(), [c for bucket in BUCKETS[:2] for c in many(40, 80, bucket)])
    turns = [[steps[0] for steps in itertools.groupby(row["width"] for row in epoch_rows(plan, epoch))] for epoch in range(5)]
    assert all(len(turn) > 4 for turn in turns)


@pytest.mark.parametrize("continuation", [0.0, 0.05, 0.3, 0.5, 0.77, 1.0])
def test_share_of_continuations_is_met_over_epochs(continuation: float) -> None:
    """Of 5 steps an epoch; the fraction of a step is a coin, whose deviation over n epochs is at most 0.5 / sqrt(n) steps."""
    num_epochs = 400
    plan = Plan.of(job(continuation=continuation), many(21, 153, BUCKETS[0]))
    counts = [sum(step.kind == "continuation" for step in epoch_steps(plan, epoch)) for epoch in range(num_epochs)]
    assert np.mean(counts) == pytest.approx(5 * continuation, abs=4 * 0.5 / num_epochs**0.5)
    assert max(counts) - min(counts) <= 1


def test_continuations_take_long_clips_only_as_far_as_they_go() -> None:
    bucket = BUCKETS[0]
    plan = Plan.of(job(continuation=1.0), many(9, 152, bucket) + [clip(f"long/{i}", 153, bucket) for i in range(11)])
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
    plan = Plan.of(job(slots=1, continuation=continuation), [clip("one", 36, Bucket(64, 64, 16))])
    rows = list(plan.rows(0, 1500))
    assert {row["start_frame"] for row in rows} == set(starts)
    # All but a few of 20 frames in 70 draws or more.
    for start in starts:
        references = {row["reference_frame"] for row in rows if row["start_frame"] == start}
        assert references <= {*range(start), *range(start + 16, 36)}
        assert len(references) >= 15
    assert {row["reference_frame"] for row in rows} == {frame for start in starts for frame in (*range(start), *range(start + 16, 36))}


def test_clip_without_a_frame_outside_its_window_is_its_own_reference() -> None:
    plan = Plan.of(job(slots=1), [clip("one", 16, Bucket(64, 64, 16))])
    assert {(row["start_frame"], row["reference_frame"]) for row in plan.rows(0, 20)} == {(0, 0)}


def test_captions_take_turns() -> None:
    plan = Plan.of(job(slots=1, dropout=NO_DROPOUT), [clip("one", 80, BUCKETS[0], ("a", "b", "c"))])
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
    plan = Plan.of(job(dropout={"text": 0.05, "audio": 0.1, "both": 0.2}), many(20, 100, BUCKETS[0]))
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


def fingerprint(clips: list[Clip] = BASE_CLIPS, **changes: Any) -> str:
    return Plan.of(job(**changes), clips).fingerprint()


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"slots": 5},
        {"continuation": 0.51},
        {"dropout": {"text": 0.06}},
        {"dropout": {"audio": 0.06}},
        {"dropout": {"both": 0.06}},
        {"clips": BASE_CLIPS[1:]},
        {"clips": [*BASE_CLIPS, clip("more", 80, BUCKETS[0])]},
        {"clips": [clip("other", 200, BUCKETS[0]), *BASE_CLIPS[1:]]},
        {"clips": [clip(BASE_CLIPS[0].clip_id, 201, BUCKETS[0]), *BASE_CLIPS[1:]]},
        {"clips": [clip(BASE_CLIPS[0].clip_id, 200, BUCKETS[2]), *BASE_CLIPS[1:]]},
    ],
)
def test_fingerprint_changes_with_what_the_plan_depends_on(other: dict[str, Any]) -> None:
    assert fingerprint(**other) != fingerprint()


def test_fingerprint_does_not_change_with_anything_else() -> None:
    moved = [Clip(c.clip_id, f"/elsewhere/{c.clip_id}", ("other words",), c.num_frames, c.bucket) for c in reversed(BASE_CLIPS)]
    assert fingerprint(moved) == fingerprint()
    assert fingerprint(workers=2, batch_size=2, learning_rate=1e-3, steps=99) == fingerprint()


def test_small_buckets_are_named_and_the_others_not() -> None:
    clips = [*many(8, 80, BUCKETS[0]), *many(3, 80, BUCKETS[1]), *many(4, 48, BUCKETS[2]), *many(1, 16, BUCKETS[3])]
    with pytest.raises(DataError) as caught:
        Plan.of(job(slots=4), clips)
    message = str(caught.value)
    assert "480x832@80 has 3" in message
    assert "64x64@16 has 1" in message
    assert "832x480@80" not in message
    assert "832x480@48" not in message
    assert "training.global_batch = 4" in message


def test_bucket_that_just_fills_a_step_is_enough() -> None:
    plan = Plan.of(job(slots=4), many(4, 80, BUCKETS[0]))
    assert (plan.steps_per_epoch, plan.left_over) == (1, 0)


def test_no_clips_make_no_plan() -> None:
    with pytest.raises(DataError):
        Plan.of(job(), [])
