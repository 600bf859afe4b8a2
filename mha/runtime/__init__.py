"""How the library runs a model that a user brings: calls are intercepted, and everything is put back as it was."""
