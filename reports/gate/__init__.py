"""The figure of the regression gate: one file in, one figure out. Not part of a run's report."""
