"""From a run to tidy frames: one row a point, with its interval."""
