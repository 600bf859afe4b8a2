"""What an error says, on one line."""


def described(error: BaseException) -> str:
    """The name of an error and the first line of what it says: "ValueError: no heads"."""
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])


def reason(error: BaseException) -> str:
    """The first line of what an error says, or its name where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
