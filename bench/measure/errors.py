"""What an error says, on one line."""


def described(error: BaseException) -> str:
    """The class name of an error and the first line of its message: "ValueError: no heads"."""
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])


def reason(error: BaseException) -> str:
    """The first line of an error's message, or the name of its class where the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
