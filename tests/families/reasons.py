"""Why a model type can't be built or run, in a few words."""

import re

LIBRARIES = ("timm", "torchaudio", "natten", "detectron2", "torchvision")
LONGEST = 120


def reason_of(error: BaseException) -> str:
    """"needs timm" where a library is missing, else the kind of the error and the end of its message."""
    message = " ".join(str(error).split())
    if isinstance(error, ImportError):
        named = next((name for name in LIBRARIES if re.search(rf"\b{name}\b", message)), None)
        return f"needs {named}" if named else message[:LONGEST]
    if isinstance(error, TimeoutError):
        return "takes too long"
    return f"{type(error).__name__}: {message[-LONGEST:]}"
