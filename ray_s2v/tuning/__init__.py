"""Running the trials of a sweep: Ray Tune over Ray Train."""
