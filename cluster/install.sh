#!/bin/sh
# Makes the Python environment of a machine of the cluster, or of an image: `env`, beside this file, pyproject.toml and constraints.txt.
#   sh install.sh [more packages]
# Where ROCm is, torch is PyTorch's own build for it; elsewhere the registry's for CUDA 13, which serves machines without a GPU too.
# A driver older than 580 needs another build: UV_TORCH_BACKEND=cu128, which is uv's own setting.
set -eu
cd "$(dirname "$0")"

if ! command -v uv >/dev/null; then
    curl -LsSf https://astral.sh/uv/0.13.9/install.sh | env UV_INSTALL_DIR="$HOME/.local/bin" UV_NO_MODIFY_PATH=1 sh
    PATH="$HOME/.local/bin:$PATH"
fi
if [ -d /opt/rocm ]; then
    export UV_TORCH_BACKEND="${UV_TORCH_BACKEND:-rocm7.2}" # https://download.pytorch.org/whl/rocm7.2
fi
uv venv -q --allow-existing --python 3.11 env
uv pip install -q --compile-bytecode --python env -c constraints.txt -r pyproject.toml "$@"
if [ -d /opt/rocm ]; then
    # Without this package of the driver's Ray sees no AMD card. It is built beside itself, so in a copy.
    copy=$(mktemp -d)
    cp -r /opt/rocm/share/amd_smi "$copy"
    uv pip install -q --python env "$copy/amd_smi"
    rm -r "$copy"
fi
