"""Pruned models on disk: safetensors and JSON, never pickle."""
