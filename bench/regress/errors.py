"""The root of every error that the gate raises on purpose."""


class GateError(Exception):
    """What stops the gate; the message says what to do."""
