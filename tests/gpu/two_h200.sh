# Two H200: throughput of ZeRO-2 and ZeRO-3 beside one GPU's, where the time goes, the same losses; and what float8 and int8 do to LoRA.
#   bash tests/gpu/two_h200.sh FOLDER
# precision.py has the second GPU to itself while the first one's step is measured; the host they share.
out=$1
python=${PYTHON:-.venv/bin/python}
mkdir -p "$out"
job="jobs/wan_s2v_14b_lora.yaml data.sources.0.num_frames=76 training.continuation=0 training.host_memory_gib=200 --steps 2"
CUDA_VISIBLE_DEVICES=1 timeout 200 $python -m tests.gpu.precision "$out/precision.json" --parts trained > "$out/precision.log" 2>&1 &
sleep 20
timeout 200 $python -m ray_s2v.bench $job training.workers=1 training.global_batch=2 --out "$out/one.json" > "$out/one.log" 2>&1
wait
for stage in 2 3; do
    timeout 200 $python -m ray_s2v.bench $job training.workers=2 training.global_batch=2 zero.stage=$stage \
        --profile "$out/zero$stage" --out "$out/zero$stage.json" > "$out/zero$stage.log" 2>&1
done
timeout 90 $python -m tests.gpu.two_gpus "$out/losses.json" > "$out/losses.log" 2>&1
