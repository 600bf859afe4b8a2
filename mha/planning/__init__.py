"""Scores and a budget become a plan."""
