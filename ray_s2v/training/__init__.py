"""The training run: loop, DeepSpeed engine, schedule, checkpoints, and the Ray Train driver that starts the workers."""
