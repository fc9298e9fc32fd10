"""Where things lie: the arithmetic by hand, and what comes before what."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ray_s2v.job_file import load_job
from ray_s2v.model.fused.memory import ADAPTER_BYTES, GIB, RESERVE, USABLE, Need, Room, arranged
from ray_s2v.model.lora import lora_config, with_lora
from ray_s2v.model.rope import num_tokens
from ray_s2v.model.transformer import WanS2VTransformer3DModel
from ray_s2v.schema import Bucket, ConfigError
from ray_s2v.training.fits import fits
from ray_s2v.training.routes import tokens_in_blocks
from tests.spawn.zero_runs import tiny_job

JOBS = Path(__file__).parents[2] / "jobs"
BUCKET = Bucket(832, 480, 76)
TOKENS = num_tokens(19, 60, 104, has_motion=False)
# Two blocks and one injector; in GiB: 1 outside, 4 of weights, inputs 1 each, attention 0.5, feed-forward 2, working set 3.
SMALL = Need(1 * GIB, 4 * GIB, 2 * GIB, (GIB, GIB, GIB), (0.5 * GIB, 0.0, 0.5 * GIB), 2 * GIB, 3 * GIB)
ALL_ON_GPU = 1 + 4 + 3 + 3 * 1 + 2 * 0.5 + RESERVE


def card(gib: float) -> float:
    """What a card must show for so much to be usable."""
    return gib / USABLE + 1e-6


@pytest.fixture(scope="module")
def outline() -> WanS2VTransformer3DModel:
    with torch.device("meta"):
        network = WanS2VTransformer3DModel()
    return with_lora(network, lora_config(16, 16, 0.0, ["to_q", "to_k", "to_v", "to_out.0"], "all"), 0).base_model.model


def test_need_of_the_14b(outline: WanS2VTransformer3DModel) -> None:
    need = Need.of(outline, "bf16", [TOKENS] * 40, 1, 1, compiled=True)
    assert TOKENS == 31200
    # wan_s2v 14: attentions and feed-forwards without their norms, and the injectors' attentions; biases are left outside.
    in_blocks = 40 * (8 * 5120**2 + 2 * 5120 * 13824) + 48 * 5120**2
    assert need.blocks == 2 * in_blocks
    assert need.outside == 2 * (16_295_755_609 - in_blocks) + ADAPTER_BYTES * 60_293_120
    assert need.inputs == (4 * 31200 * 5120,) * 52
    assert sum(size > 0 for size in need.attention) == 40
    assert max(need.attention) == 31200 * (2 * 5120 + 4 * 40)
    assert need.feed_forward == 2 * 31200 * 13824
    assert Need.of(outline, "fp8", [TOKENS] * 40, 1, 1, compiled=True).blocks == in_blocks
    assert Need.of(outline, "bf16", [TOKENS] * 40, 1, 2, compiled=True).feed_forward == 0
    assert Need.of(outline, "bf16", [TOKENS] * 40, 3, 1, compiled=True).group == 3 * need.group


def test_a_routed_block_keeps_what_goes_through_it(outline: WanS2VTransformer3DModel) -> None:
    tokens = [TOKENS] * 2 + [TOKENS // 2] * 37 + [TOKENS]
    need, whole = (Need.of(outline, "bf16", counts, 1, 1, compiled=True) for counts in (tokens, [TOKENS] * 40))
    # Injectors are behind blocks 0, 4 and so on to 36, and 39.
    assert need.inputs[:5] == tuple(4 * count * 5120 for count in (TOKENS, TOKENS, TOKENS, TOKENS // 2, TOKENS // 2))
    assert sum(size > 0 for size in need.attention) == 40
    assert sum(need.attention) == sum(whole.attention) * (3 + 37 / 2) / 40
    assert need.working == whole.working + 4 * TOKENS * 5120
    assert need.blocks == whole.blocks


def test_tokens_that_blocks_see() -> None:
    job = tiny_job(2, 1, ((0.5, 2, -2),))
    whole = num_tokens(19, 60, 104, has_motion=True)
    assert tokens_in_blocks(job, BUCKET, 40) == [whole] * 2 + [whole - 19 * 780] * 37 + [whole]


def test_working_set_is_no_less_than_what_was_measured(outline: WanS2VTransformer3DModel) -> None:
    """H100, first clip (tests/gpu/results/fast_form_h100.txt): 58.64 GiB with 26 units on the host, 67.36 with fp8 and none there;
    plain AdamW there took 16 bytes a trained parameter.
    """
    for precision, on_host, measured in (("bf16", 26, 58.64), ("fp8", 0, 67.36)):
        need = Need.of(outline, precision, [TOKENS] * 40, 1, 1, compiled=True)
        kept = sum((*need.inputs[on_host:], *need.attention[on_host:]))
        rest = need.outside + need.blocks + kept - 16 * 60_293_120
        assert rest / GIB < measured < (rest + need.working) / GIB < measured + 4


def test_what_is_not_compiled_takes_more(outline: WanS2VTransformer3DModel) -> None:
    """A block's pullback as it is written was seen to hold 121 bytes a token and channel, 105 with four chunks."""
    dim = 5120
    assert Need.of(outline, "bf16", [TOKENS] * 40, 1, 1, compiled=False).working > 121 * TOKENS * dim
    assert Need.of(outline, "bf16", [TOKENS] * 40, 1, 4, compiled=False).working > 105 * TOKENS * dim


def test_check_counts_the_workers_share(outline: WanS2VTransformer3DModel) -> None:
    job = tiny_job(2, 1)
    job = job.model_copy(update={"model": job.model.model_copy(update={"path": "owner/at-the-hub", "base_precision": "bf16"})})
    halved = job.model_copy(update={"training": job.training.model_copy(update={"worker_gpus": 0.5})})
    whole = job.model_copy(update={"training": job.training.model_copy(update={"worker_gpus": 1.0})})
    capped = job.model_copy(update={"training": job.training.model_copy(update={"worker_gpus": 1.0, "gpu_memory_gib": 24 * 0.985})})
    of_48_halved, of_24 = (fits(j, BUCKET).split("\n")[line].partition(": ")[2] for j, line in ((halved, 2), (whole, 1)))
    assert of_48_halved == of_24
    assert {line.partition(": ")[2] for line in fits(capped, BUCKET).split("\n")[1:]} == {of_24}


def test_everything_stays_where_it_fits() -> None:
    found = arranged(SMALL, Room(card(ALL_ON_GPU)), "auto", "auto", "auto")
    assert (found.stream, found.units_on_host, found.blocks_without_attention, found.blocks_with_feed_forward) == (False, 0, 0, 0)
    assert found.gpu_gib == pytest.approx(ALL_ON_GPU)
    assert found.host_gib == 0


def test_room_that_is_left_keeps_the_feed_forward() -> None:
    assert arranged(SMALL, Room(card(ALL_ON_GPU + 2)), "auto", "auto", "auto").blocks_with_feed_forward == 1
    assert arranged(SMALL, Room(card(ALL_ON_GPU + 9)), "auto", "auto", "auto").blocks_with_feed_forward == 2
    assert arranged(SMALL, Room(card(ALL_ON_GPU + 9)), "selective", "auto", "auto").blocks_with_feed_forward == 0
    assert arranged(replace(SMALL, feed_forward=0.0), Room(card(ALL_ON_GPU + 9)), "auto", "auto", "auto").blocks_with_feed_forward == 0


def test_host_memory_before_computing_again() -> None:
    many = replace(SMALL, inputs=(GIB,) * 20, attention=(0.5 * GIB,) * 20)
    found = arranged(many, Room(card(1 + 4 + 3 + 30 + RESERVE - 6)), "auto", "auto", "auto")
    # Each unit that goes takes 1.5 away, and three of 1.5 are on their way or in use: 4.5 - 1.5 n <= -6.
    assert (found.units_on_host, found.blocks_without_attention, found.stream) == (7, 0, False)
    assert found.host_gib == pytest.approx(7 * 1.5)
    assert arranged(many, Room(card(1 + 4 + 3 + 30 + RESERVE - 6)), "auto", "auto", False).blocks_without_attention == 12


def test_full_checkpointing_keeps_no_attention_and_selective_all_of_it() -> None:
    assert arranged(SMALL, Room(100), "full", "auto", "auto").blocks_without_attention == 2
    with pytest.raises(ConfigError, match=r"13\.0 GiB"):
        arranged(SMALL, Room(card(ALL_ON_GPU - 0.25)), "selective", False, False)
    assert arranged(SMALL, Room(card(ALL_ON_GPU - 0.25)), "auto", False, False).blocks_without_attention == 1


def test_blocks_stream_where_nothing_else_helps() -> None:
    many = replace(SMALL, blocks=40 * GIB)
    found = arranged(many, Room(card(1 + 2 * 2 + 3 + 4 + RESERVE)), "auto", "auto", "auto")
    assert found.stream
    assert found.host_gib == 40
    with pytest.raises(ConfigError, match=r"What helps: .*; offload\.blocks auto$"):
        arranged(many, Room(card(20)), "auto", False, "auto")


def test_the_14b_fits_cards_of_all_sizes(outline: WanS2VTransformer3DModel) -> None:
    job = tiny_job(2, 1)
    job = job.model_copy(update={"model": job.model.model_copy(update={"path": "owner/at-the-hub", "base_precision": "bf16"})})
    job = job.model_copy(update={"training": job.training.model_copy(update={"worker_gpus": 1.0})})
    _, *lines = fits(job, BUCKET).split("\n")
    assert [line.split(":")[0] for line in lines] == [f"  of {size} GB" for size in (24, 48, 80, 141, 192)]
    assert not any("does not fit" in line for line in lines)
    assert "stream" in lines[0]
    assert all("does not fit" in line for line in fits(job, Bucket(6 * 832, 6 * 480, 76)).split("\n")[1:4])


def test_host_memory_that_lacks_is_made_up_for() -> None:
    """Some go to the host, and attention is computed again where they would be too many."""
    many = replace(SMALL, inputs=(GIB,) * 20, attention=(0.5 * GIB,) * 20)
    gpu = card(1 + 4 + 3 + 30 + RESERVE - 6)
    room = Room(gpu, host_gib=8)
    found = arranged(many, room, "auto", False, "auto")
    assert 0 < found.blocks_without_attention < 12
    assert 0 < found.host_gib <= 8
    assert arranged(many, Room(gpu, host_gib=0), "auto", False, "auto").blocks_without_attention == 12
    assert arranged(many, Room(gpu, host_gib=2 * 7 * 1.5, ranks=2), "auto", False, "auto").units_on_host == 7
    with pytest.raises(
        ConfigError,
        match=r"at least 10\.5 GiB of host memory .* there are 8\.0 .*blocks auto; model\.checkpointing auto; training\.host_memory_gib",
    ):
        arranged(many, room, "selective", False, "auto")


def test_what_streams_is_in_a_machines_memory_once_or_on_its_disk() -> None:
    large = replace(SMALL, blocks=40 * GIB)
    gpu = card(1 + 2 * 2 + 3 + 4 + RESERVE)
    found = arranged(large, Room(gpu, ranks=4), "auto", "auto", False)
    assert (found.host_gib, found.disk_gib) == (40, 0)
    found = arranged(large, Room(gpu, ranks=4, disk=True), "auto", "auto", False)
    assert (found.host_gib, found.disk_gib) == (4 * 3 * 2, 40)  # three groups in memory on each rank
    assert "40.0 GiB of a disk, blocks stream from the disk" in str(found)
    with pytest.raises(ConfigError, match=r"at least 40\.0 GiB of host memory .*offload\.disk_path"):
        arranged(large, Room(gpu, host_gib=39), "auto", "auto", "auto")


def test_streaming_comes_before_computing_attention_again() -> None:
    large = replace(SMALL, blocks=5 * GIB)
    found = arranged(large, Room(card(ALL_ON_GPU + 0.25)), "auto", "auto", False)
    assert (found.stream, found.blocks_without_attention) == (True, 0)


@pytest.mark.parametrize("card", [24, 48, 80, 192])
def test_a_ready_jobs_head_says_what_its_card_will_hold(card: int) -> None:
    file = JOBS / f"wan_s2v_14b_{card}gb.yaml"
    job = load_job(str(file), [])
    found = fits(job, Bucket(832, 480, job.data.sources[0].num_frames))
    (line,) = [line for line in found.splitlines() if line.startswith(f"  of {card} GB")]
    (head,) = [line for line in file.read_text().splitlines() if line.startswith("# Computed peak: ")]
    figures = re.compile(r"([\d.]+) GiB")
    assert figures.findall(head) == figures.findall(line)


def test_shards_in_host_memory_are_counted_for_each_worker() -> None:
    found = arranged(replace(SMALL, shards_on_host=3 * GIB), Room(100, ranks=4), "auto", False, False)
    assert found.host_gib == 4 * 3
