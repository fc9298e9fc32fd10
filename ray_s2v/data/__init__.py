"""Clips on disk to batches: the manifest, the buckets, the plan of who is seen when, and the Ray Data graph that carries it."""
