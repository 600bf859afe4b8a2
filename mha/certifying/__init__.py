"""A promise that can be kept: the smallest model that was shown, with a stated confidence, to lose at most so much."""
