"""How a model is run by somebody else than its owner: calls are intercepted, and everything is put back as it was."""
