"""Two runs, or two devices of one: what they have in common, and what is said of it."""
