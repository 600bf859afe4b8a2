"""The regression gate: whether a change made attention slower, larger or less accurate, base against head."""
