"""A training step of a job measured on this machine: synthetic batches, random weights, real engine, no Ray."""
