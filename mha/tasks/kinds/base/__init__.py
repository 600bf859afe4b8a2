"""What the kinds of tasks share: the registry, tokens and batches, labels, metrics, distances."""
