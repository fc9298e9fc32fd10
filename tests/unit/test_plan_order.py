"""Who is seen when, for any clips, buckets, sources, repeats, weights, kinds, seeds, epochs and numbers of workers."""

import itertools
import math
from collections import Counter
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_s2v.data.plan import Plan
from ray_s2v.schema import Bucket, PlanRow
from tests.plans import BUCKETS, clip, epoch_rows, job, many

PROPERTY = settings(deadline=None, database=None, derandomize=True, max_examples=60)
EPOCHS = st.integers(min_value=0, max_value=5)


@st.composite
def plans(draw: st.DrawFn, weighted: bool | None = None, slots: int = 0) -> Plan:
    """Plans of two to four sources in one to three buckets and steps of `slots`, or else of 1 to 6, clips.

    Clips are from just long enough to some seconds longer. The source `filling` sees to it that no bucket is too small: at a fifth
    of all weights or more, five steps of it are enough.
    """
    slots = slots or draw(st.integers(min_value=1, max_value=6))
    weighted = draw(st.booleans()) if weighted is None else weighted
    buckets = draw(st.lists(st.sampled_from(BUCKETS), min_size=1, max_size=3, unique=True))
    clips = [c for bucket in buckets for c in many((5 if weighted else 1) * slots, 200, bucket, source="filling")]
    sources: list[dict[str, Any]] = [{"name": "filling", "weight": 6.0 if weighted else None}]
    for name in "abc"[: draw(st.integers(min_value=1, max_value=3))]:
        weight = draw(st.floats(min_value=0.5, max_value=8)) if weighted else None
        sources.append({"name": name, "repeats": draw(st.integers(min_value=0, max_value=6)), "weight": weight})
        for bucket in draw(st.lists(st.sampled_from(buckets), min_size=1, max_size=3, unique=True)):
            extras = draw(st.lists(st.integers(min_value=0, max_value=200), min_size=1, max_size=2 * slots))
            clips += [clip(f"{name}/{bucket}/{i}", bucket.num_frames + extra, bucket, source=name) for i, extra in enumerate(extras)]
    seed, continuation = draw(st.integers(min_value=0, max_value=2**63 - 1)), draw(st.floats(min_value=0, max_value=1))
    return Plan.of(job(slots, seed, continuation, sources=sources), draw(st.permutations(clips)))


def steps_of(rows: list[PlanRow]) -> list[list[PlanRow]]:
    return [list(group) for _, group in itertools.groupby(rows, key=lambda row: row["step"])]


def bucket_of(row: PlanRow) -> Bucket:
    return Bucket(row["width"], row["height"], row["num_frames"])


def visits(plan: Plan) -> Counter[str]:
    """How often each clip is seen in an epoch without weights, if its bucket fills all steps."""
    return Counter({c.clip_id: plan.sources[c.source].repeats + 1 for c in plan.clips})


@PROPERTY
@given(plans(), EPOCHS)
def test_steps_are_whole_and_of_one_bucket_and_kind(plan: Plan, epoch: int) -> None:
    rows = epoch_rows(plan, epoch)
    first = epoch * plan.steps_per_epoch
    assert [(row["step"], row["slot"]) for row in rows] == [
        (first + step, slot) for step in range(plan.steps_per_epoch) for slot in range(plan.slots)
    ]
    for step in steps_of(rows):
        assert len({(bucket_of(row), row["kind"]) for row in step}) == 1


@PROPERTY
@given(plans(slots=12), st.integers(min_value=0, max_value=30), st.lists(st.integers(min_value=1, max_value=4), min_size=1, max_size=4))
def test_each_step_is_the_same_whatever_the_workers_and_wherever_a_run_was_resumed(plan: Plan, first: int, workers: list[int]) -> None:
    """A run of some pieces, each of 3 steps and with workers of its own, against one worker that was never disturbed."""
    undisturbed = list(plan.rows(0, first + 3 * len(workers)))[first * plan.slots :]
    seen: list[PlanRow] = []
    for piece, num_workers in enumerate(workers):
        begin = first + 3 * piece
        rows = list(plan.rows(begin, begin + 3))
        shares = [rows[worker::num_workers] for worker in range(num_workers)]  # as Ray Data hands rows out
        for worker, share in enumerate(shares):
            places = [(step, slot) for step in range(begin, begin + 3) for slot in range(worker, plan.slots, num_workers)]
            assert [(row["step"], row["slot"]) for row in share] == places
        seen += [row for share in shares for row in share]
    assert sorted(seen, key=lambda row: (row["step"], row["slot"])) == undisturbed


@PROPERTY
@given(plans(weighted=False), EPOCHS)
def test_an_epoch_sees_each_visit_once_and_leaves_out_less_than_a_step_of_each_bucket(plan: Plan, epoch: int) -> None:
    rows, there = epoch_rows(plan, epoch), visits(plan)
    seen = Counter(row["clip_id"] for row in rows)
    assert seen <= there
    of_bucket: Counter[Bucket] = Counter()
    for c in plan.clips:
        of_bucket[c.bucket] += there[c.clip_id]
    assert Counter(map(bucket_of, rows)) == {bucket: count // plan.slots * plan.slots for bucket, count in of_bucket.items()}
    assert there.total() - seen.total() == plan.left_over


@PROPERTY
@given(plans(), EPOCHS)
def test_no_clip_is_twice_in_a_step_that_can_be_filled_otherwise(plan: Plan, epoch: int) -> None:
    """Among the continuations a clip has at least the visits that the other steps have no room for, and at most one a step. Where
    these bounds leave a way to fill the continuations, there is one without a clip twice in any step."""
    long = {c.clip_id for c in plan.clips if c.num_frames - c.bucket.num_frames >= min(73, c.bucket.num_frames - 3)}
    by_bucket: dict[Bucket, list[list[PlanRow]]] = {}
    for step in steps_of(epoch_rows(plan, epoch)):
        by_bucket.setdefault(bucket_of(step[0]), []).append(step)
    for steps in by_bucket.values():
        seen = Counter(row["clip_id"] for step in steps for row in step)
        continued = sum(step[0]["kind"] == "continuation" for step in steps)
        first = len(steps) - continued
        least = sum(max(count - first, 0) for count in seen.values())
        most = sum(min(count, continued) for name, count in seen.items() if name in long)
        fits = all(count <= (len(steps) if name in long else first) for name, count in seen.items())
        if fits and least <= continued * plan.slots <= most:
            assert all(len({row["clip_id"] for row in step}) == plan.slots for step in steps)


@PROPERTY
@given(plans(), EPOCHS)
def test_continuations_are_their_share_of_each_bucket_as_far_as_clips_are_long_enough(plan: Plan, epoch: int) -> None:
    steps = steps_of(epoch_rows(plan, epoch))
    long = {c.clip_id for c in plan.clips if c.num_frames - c.bucket.num_frames >= min(73, c.bucket.num_frames - 3)}
    for bucket in plan.order.buckets:
        kinds = [step[0]["kind"] for step in steps if bucket_of(step[0]) == bucket]
        taken = [row["clip_id"] in long for step in steps for row in step if bucket_of(row) == bucket]
        wanted = plan.order.continuation * len(kinds)
        possible = sum(taken) // plan.slots
        assert min(math.floor(wanted), possible) <= kinds.count("continuation") <= min(math.floor(wanted) + 1, possible)
    assert all(row["clip_id"] in long for step in steps for row in step if row["kind"] == "continuation")


def mix(plan: Plan) -> dict[tuple[str, Bucket], Fraction]:
    """Which share of all visits the weights give each source's clips of each bucket."""
    of_source = Counter(c.source for c in plan.clips)
    weights = {name: Fraction(source.weight or 0) for name, source in plan.sources.items()}
    count = Counter((c.source, c.bucket) for c in plan.clips)
    return {key: weights[key[0]] / sum(weights.values()) * Fraction(n, of_source[key[0]]) for key, n in count.items()}


@PROPERTY
@given(plans(weighted=True), EPOCHS)
def test_weighted_epochs_are_as_long_as_all_visits_and_meet_the_shares_to_the_rounding(plan: Plan, epoch: int) -> None:
    rows = epoch_rows(plan, epoch)
    assert plan.steps_per_epoch == math.ceil(visits(plan).total() / plan.slots)
    expected = mix(plan)
    source = {c.clip_id: c.source for c in plan.clips}
    seen = Counter((source[row["clip_id"]], bucket_of(row)) for row in rows)
    for bucket in plan.order.buckets:
        share = sum(part for key, part in expected.items() if key[1] == bucket)
        steps = Fraction(sum(count for key, count in seen.items() if key[1] == bucket), plan.slots)
        assert steps in {math.floor(plan.steps_per_epoch * share + Fraction(1, 10**9)), math.ceil(plan.steps_per_epoch * share)}
        for key in (key for key in expected if key[1] == bucket):
            assert abs(seen[key] - steps * plan.slots * expected[key] / share) < 1 + Fraction(1, 10**9)


@settings(PROPERTY, max_examples=20)
@given(plans(weighted=True))
def test_weighted_every_clip_of_a_source_and_bucket_is_seen_before_any_is_seen_again(plan: Plan) -> None:
    """At the end of each epoch no clip has been seen more than once more often than another of the same source and bucket."""
    seen = Counter({c.clip_id: 0 for c in plan.clips})
    for epoch in range(6):
        seen.update(row["clip_id"] for row in epoch_rows(plan, epoch))
        for cell in {(c.source, c.bucket) for c in plan.clips}:
            counts = {seen[c.clip_id] for c in plan.clips if (c.source, c.bucket) == cell}
            assert max(counts) - min(counts) <= 1


@settings(PROPERTY, max_examples=10)
@given(plans(weighted=True))
def test_weighted_shares_do_not_drift_over_many_epochs(plan: Plan) -> None:
    """After 300 epochs each share is off by no more than a few steps of its bucket, where drawn numbers would be by dozens."""
    num_epochs = 300
    number_of = [(c.source, c.bucket) for c in plan.clips]
    seen: Counter[tuple[str, Bucket]] = Counter()
    for epoch in range(num_epochs):
        seen.update(number_of[number] for number in plan.order.epoch(epoch).clips.ravel())
    total = num_epochs * plan.steps_per_epoch * plan.slots
    for key, share in mix(plan).items():
        assert abs(seen[key] - total * share) <= 8 * plan.slots


@pytest.mark.parametrize("weights", [(1.0, 3.0), (0.25, 0.75), (10, 30)])
def test_a_source_of_three_times_the_weight_is_seen_three_times_as_often(weights: tuple[float, float]) -> None:
    sources = [{"name": name, "weight": weight} for name, weight in zip("ab", weights, strict=True)]
    clips = [*many(30, 80, BUCKETS[0], source="a"), *many(10, 80, BUCKETS[0], source="b")]
    plan = Plan.of(job(4, sources=sources), clips)
    for epoch in range(10):
        seen = Counter(row["clip_id"] for row in epoch_rows(plan, epoch))
        of_b = sum(count for name, count in seen.items() if name.startswith("b/"))
        assert (seen.total(), of_b) == (40, 30)
        assert {count for name, count in seen.items() if name.startswith("b/")} == {3}


def test_weighted_rounds_are_each_in_an_order_of_their_own() -> None:
    """4 of 12 clips an epoch make a round of 3 epochs; no two rounds are cut into the same thirds."""
    sources = [{"name": "a", "weight": 1}, {"name": "b", "weight": 5}]
    clips = [*many(12, 80, BUCKETS[0], source="a"), *many(12, 80, BUCKETS[0], source="b")]
    plan = Plan.of(job(4, sources=sources), clips)
    thirds = [frozenset(row["clip_id"] for row in epoch_rows(plan, epoch) if row["clip_id"].startswith("a/")) for epoch in range(12)]
    rounds = [thirds[i : i + 3] for i in range(0, 12, 3)]
    assert all(len(frozenset.union(*parts)) == 12 for parts in rounds)
    assert len(set(map(frozenset, rounds))) == 4
