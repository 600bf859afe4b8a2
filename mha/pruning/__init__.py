"""Heads switched off (masking) and cut out for good (slicing), and the proof that both give the same."""
