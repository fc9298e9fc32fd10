"""Where a GPU's time goes, from traces made by hand: what overlaps, what lies within another, several streams."""

from typing import Any

import pytest

from ray_s2v.benchmark.profile import PARTS, gpu_times, part_of

# Put together from public traces and sources, not from a run of ours.
NAMES = [
    ("kernel", "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_3_64x128x128_4x1x1_kernel0_0", "attention"),
    ("kernel", "cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma_f16_knob_3_64x128x128_1x1x1_cga1x1x1_kernel0_0", "attention"),
    ("kernel", "void cudnn::fusion::compute_dot_do_o_specialized<true, true>(...)", "attention"),
    ("kernel", "void cudnn::fusion::convert_dq_to_16bits<true>(...)", "attention"),
    ("kernel", "void pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel<Flash_bwd_kernel_traits<128, 64>>", "attention"),
    ("kernel", "fmha_cutlassF_bf16_aligned_64x128_rf_sm80(AttentionKernel<cutlass::bfloat16_t>::Params)", "attention"),
    ("kernel", "nvjet_tst_128x256_64x4_1x2_h_bz_coopA_TNT", "products"),
    ("kernel", "void cutlass::device_kernel<at::cuda::detail::enable_3x_kernel_for_sm9x<cutlass::gemm::GemmUniversal<>>>", "products"),
    ("kernel", "sm90_xmma_gemm_e4m3bf16_e4m3f32_f32_tn_n_tilesize128x128x128_warpgroupsize1x1x1_execute_segment_k_off_kernel", "products"),
    ("kernel", "ampere_sgemm_128x64_tn", "products"),
    ("kernel", "void cublasLt::splitKreduce_kernel<32, 16, int, float, __nv_bfloat16>(...)", "products"),
    ("kernel", "void gemv2T_kernel_val<int, int, float, float, float, float, 128, 16, 4, 4, false, false>(...)", "products"),
    ("kernel", "triton_poi_fused__scaled_mm_mul_0", "triton"),
    ("kernel", "triton_red_fused__scaled_dot_product_cudnn_attention_add_1", "triton"),
    ("kernel", "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)", "communication"),
    ("kernel", "ncclKernel_AllGather_RING_LL_Sum_int8_t(ncclDevComm*, unsigned long, ncclWork*)", "communication"),
    ("kernel", "void at::native::(anonymous namespace)::multi_tensor_apply_kernel<at::native::FusedAdamMathFunctor<float, 4>>", "other"),
    ("kernel", "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>, std::array<char*, 3ul>>", "other"),
    ("gpu_memcpy", "Memcpy DtoH (Device -> Pinned)", "to_host"),
    ("gpu_memcpy", "Memcpy HtoD (Pageable -> Device)", "from_host"),
    ("gpu_memcpy", "Memcpy DtoD (Device -> Device)", "other"),
    ("gpu_memset", "Memset (Device)", "other"),
]  # fmt: skip

PRODUCT, ATTENTION, FUSED, ADDED = "nvjet_tst", "cudnn_sdpa_flash_fprop", "triton_poi_fused_add_0", "at::native::add"
NCCL, TO_HOST, FROM_HOST = "ncclDevKernel_AllReduce", "Memcpy DtoH (Device -> Pinned)", "Memcpy HtoD (Pinned -> Device)"


def event(name: str, start_ms: float, stop_ms: float, stream: int = 7) -> dict[str, Any]:
    """Late after the machine's start, as a trace has it: microseconds with three digits."""
    category = "gpu_memcpy" if name.startswith("Memcpy") else "kernel"
    timed = {"ts": 4548916537993.145 + 1e3 * start_ms, "dur": 1e3 * (stop_ms - start_ms)}
    return {"ph": "X", "cat": category, "name": name, **timed, "args": {"stream": stream, "device": 0}}


def found(*events: dict[str, Any]) -> dict[str, float]:
    """Without the parts that took nothing; to the microsecond, as times so late are rounded to the nanosecond."""
    return {name: round(ms, 3) for name, ms in gpu_times(events).items() if round(ms, 3)}


@pytest.mark.parametrize(("category", "name", "part"), NAMES)
def test_parts_by_name(category: str, name: str, part: str) -> None:
    assert part_of({"cat": category, "name": name}) == part


def test_one_stream() -> None:
    """Products 0 to 2, attention 2 to 5, nothing, a fused piece 6 to 7, another kernel 7 to 7.5."""
    events = [event(PRODUCT, 0, 2), event(ATTENTION, 2, 5), event(FUSED, 6, 7), event(ADDED, 7, 7.5)]
    parts = {"products": 2, "attention": 3, "triton": 1, "other": 0.5}
    assert found(*events) == found(*reversed(events)) == {**parts, "span": 7.5, "busy": 6.5, "idle": 1}


def test_every_name_is_there() -> None:
    assert list(gpu_times([event(PRODUCT, 0, 2)])) == [*PARTS, "span", "busy", "idle", "communication_alone", "copies_alone"]


def test_what_is_computed_at_once_is_busy_once() -> None:
    """One within the other, one over the other's end."""
    events = [event(PRODUCT, 0, 10), event(ADDED, 2, 4, stream=8), event(ATTENTION, 9, 12, stream=8)]
    assert found(*events) == {"products": 10, "other": 2, "attention": 3, "span": 12, "busy": 12}


def test_what_is_hidden_and_what_is_waited_for() -> None:
    """Computed 0 to 4 and 6 to 10. Communication 3 to 5.5; copies to the host 1 to 3 and 8 to 11; from it 5 to 6.5."""
    events = [
        event(PRODUCT, 0, 4), event(ATTENTION, 6, 10),
        event(NCCL, 3, 5.5, stream=20),
        event(TO_HOST, 1, 3, stream=21), event(TO_HOST, 8, 11, stream=21), event(FROM_HOST, 5, 6.5, stream=22),
    ]  # fmt: skip
    assert found(*events) == {
        "products": 4, "attention": 4, "communication": 2.5, "to_host": 5, "from_host": 1.5,
        "span": 11, "busy": 8, "communication_alone": 1.5, "copies_alone": 2,
    }  # fmt: skip


def test_two_copies_alone_at_once_are_waited_for_once() -> None:
    events = [event(PRODUCT, 0, 1), event(TO_HOST, 1, 3, stream=21), event(FROM_HOST, 2, 5, stream=22), event(PRODUCT, 6, 7)]
    assert found(*events) == {"products": 2, "to_host": 2, "from_host": 3, "span": 7, "busy": 2, "idle": 1, "copies_alone": 4}


def test_only_the_gpus_events_count() -> None:
    beside = [
        {"ph": "M", "name": "process_name", "ts": 0.0, "args": {"name": "python"}},
        {"ph": "X", "cat": "cpu_op", "name": "aten::_scaled_dot_product_flash_attention", "ts": 0.0, "dur": 9e9},
        {"ph": "X", "cat": "cuda_runtime", "name": "cudaMemcpyAsync", "ts": 0.0, "dur": 9e9},
        {"ph": "X", "cat": "gpu_user_annotation", "name": "nccl:all_reduce", "ts": 0.0, "dur": 9e9},
        {"ph": "s", "cat": "ac2g", "name": "ac2g", "ts": 0.0},
    ]
    assert found(*beside, event(PRODUCT, 0, 2)) == {"products": 2, "span": 2, "busy": 2}
    assert gpu_times(beside) == {}
