"""Why a model type can't be built or run, in a few words."""

import re

LIBRARIES = ("timm", "torchaudio", "natten", "detectron2", "torchvision")
LONGEST = 120

# Types that fail for a reason their error does not tell.
KNOWN = {
    "pp_ocrv6_medium_det": "its default configuration is incomplete",
    "sam3_video": "needs a session in which its detector has found something",
}


def reason_of(error: BaseException) -> str:
    """ "needs timm" where a library is missing, else the kind of the error and the end of its message."""
    message = " ".join(str(error).split())
    if isinstance(error, ImportError):
        named = next((name for name in LIBRARIES if re.search(rf"\b{name}\b", message)), None)
        return f"needs {named}" if named else message[:LONGEST]
    if isinstance(error, TimeoutError):
        return "takes too long"
    return f"{type(error).__name__}: {message[-LONGEST:]}"
