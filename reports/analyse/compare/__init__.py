"""Compares two runs, or two devices of one run: what both measured, as tables and sentences."""
