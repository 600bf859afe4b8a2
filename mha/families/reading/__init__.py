"""What a module's own source code says about it, read and rewritten: the evidence that a family may describe it."""
