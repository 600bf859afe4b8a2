"""How the library runs a model that is not its own: calls are intercepted, and everything is put back as it was."""
