"""One command that measures on an accelerator what there is to measure there, within minutes."""
