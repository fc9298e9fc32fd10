"""What a job's workers use on AMD's GPUs."""

from __future__ import annotations

from ray_s2v.config.job import Job
from ray_s2v.model.fused.attention import kernels

SUMS = "sums over tokens for LoRA end in bf16"  # as of linear.py, where NVIDIA's end in float32
PRECISIONS = {
    "bf16": f"bf16 weights and products; {SUMS}",
    "fp32": "float32 weights and products",
    "fp8": f"float8 of MI300's format (e4m3fnuz), a scale for each row; {SUMS}",
    "int8": f"int8 weights, bf16 products; {SUMS}",
}


def on_amd(job: Job) -> str:
    """Their attention, precision, optimizer, communication and GPUs, a line each."""
    tried = kernels(job.model.attention, on_amd=True)
    used = {
        "attention": f"{'the faster of ' if len(tried) > 1 else ''}torch's {' and '.join(tried)}, by AOTriton; no cudnn",
        "precision": PRECISIONS[job.model.base_precision],
        "compiled": "no" if job.model.compile is False else "by torch's Triton",
        "optimizer": f"torch's fused AdamW under ZeRO-{job.zero.stage}; nothing of DeepSpeed's is compiled",
        "communication": "RCCL, which torch calls nccl; the variables NCCL_... are for it too",
        "GPUs": "those that Ray names in HIP_VISIBLE_DEVICES, of all workers of a machine; unset ROCR_VISIBLE_DEVICES",
        "memory": "PYTORCH_CUDA_ALLOC_CONF is read there too; a build without expandable segments says so and goes on",
    }
    return "\n".join(["workers on AMD's GPUs, of which none has run this yet, use", *(f"  {name}: {what}" for name, what in used.items())])
