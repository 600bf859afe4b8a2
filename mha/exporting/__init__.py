"""Pruned models for the runtimes that people deploy to, each export proved inside the runtime that will run it."""
