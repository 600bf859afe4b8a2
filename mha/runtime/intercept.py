"""Giving a module another class, also where a forward in the instance hides that of the class.

accelerate's hooks put one there, and so do users. That of accelerate calls what it found, which it keeps under a name
of its own; that is replaced along with the class, so that hooks stay on. Of others it is not known what they call.
"""

from collections.abc import Callable, Iterator
from types import FunctionType, MethodType
from typing import Any

from torch import nn

KEPT = "_old_forward"  # where accelerate keeps the forward that it found, and from where it calls it
FOLLOWS = "_mha_follows_class"  # set on a forward that calls that of the class, whichever the module has by then


def become(module: nn.Module, kind: type[nn.Module]) -> None:
    """Give the module this class, also where accelerate's hooks call its forward."""
    if keeps_own(module):
        forward = MethodType(kind.forward, module)
        vars(module)[KEPT] = forward
        if hasattr(vars(module)["forward"], "__wrapped__"):
            vars(module)["forward"].__wrapped__ = forward
    module.__class__ = kind


def following_class(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a forward that is put into an instance and calls that of the class."""
    setattr(forward, FOLLOWS, True)
    return forward


def why_stuck(module: nn.Module, name: str) -> str | None:
    """Why the class of the module can't be changed."""
    own = vars(module).get("forward")
    if own is None or getattr(own, FOLLOWS, False) or keeps_own(module):
        return None
    where = f"{name}, a {type(module).__name__}," if name else f"the {type(module).__name__}"
    return (
        f"{where} has had its forward replaced by {getattr(own, '__qualname__', own)!r}, which would hide that of "
        "fewer heads; take it off (del module.forward) before, and put it on again after"
    )


def why_not_copied(model: nn.Module) -> str | None:
    """Why a copy would run parts of the model itself: a forward in an instance that holds on to them in its closure."""
    modules = set(model.modules())
    for name, module in model.named_modules():
        own = vars(module).get("forward")
        if "_orig_mod" in module._modules:
            continue  # what torch.compile wrapped makes its forward anew when it is copied
        if isinstance(own, FunctionType) and not modules.isdisjoint(_enclosed(own)):
            where = f"{name or 'the model'} ({type(module).__name__})"
            return (
                f"{where} has had its forward replaced by {own.__qualname__!r}, which in a copy would go on calling "
                "the original; take it off (del module.forward), or prune in place"
            )
    return None


def _enclosed(function: FunctionType) -> Iterator[nn.Module]:
    """The modules that a function, and functions that it holds, were made with."""
    for cell in function.__closure__ or ():
        value = cell.cell_contents
        value = value.__self__ if isinstance(value, MethodType) else value
        if isinstance(value, nn.Module):
            yield value
        elif isinstance(value, FunctionType) and value is not function:
            yield from _enclosed(value)


def keeps_own(module: nn.Module) -> bool:
    """Whether accelerate keeps the forward of the module's own class."""
    kept = vars(module).get(KEPT)
    return "forward" in vars(module) and isinstance(kept, MethodType) and kept.__func__ is type(module).forward
