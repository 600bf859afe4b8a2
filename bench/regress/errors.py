"""The root of every error that the gate raises on purpose."""


class GateError(Exception):
    """An error that stops the gate; its message says what to do."""
