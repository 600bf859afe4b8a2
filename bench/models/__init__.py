"""What is measured: a task with its dense and pruned models, and the peers of the bare layer."""
