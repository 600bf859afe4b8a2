"""The one root of errors that the gate raises on purpose."""


class GateError(Exception):
    """What stops the gate; the message says what to do."""
