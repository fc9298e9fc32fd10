# What every process of a machine of the cluster is given: ~/.bashrc sources this, and Ray's launcher starts each command from there.
export PATH="$HOME/ray_s2v/env/bin:$HOME/.local/bin:$PATH"
export RAY_AUTH_MODE=token             # ~/.ray/auth_token, the same on every machine
export HF_HOME=/shared/huggingface     # weights are fetched once for all machines
if [ -r "$HOME/.ray_s2v.env" ]; then   # HF_TOKEN=..., WANDB_API_KEY=...; from the file of that name where `ray up` was given
    set -a
    . "$HOME/.ray_s2v.env"
    set +a
fi
