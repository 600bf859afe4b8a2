"""What is given back after pruning: linear layers fitted again, a short distillation; and `shrink`, which does all."""
