"""Repair after pruning: linear layers fitted again, a short distillation; `shrink` scores, prunes and repairs."""
