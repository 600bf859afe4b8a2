"""How calls of a module are intercepted: the one place where something else takes the place of a module's forward.

There are two ways, and each does what the other can't:

- **Another class.** The module becomes an instance of a subclass of its own class, whose forward computes with fewer
  heads, or with none: for good when it is pruned (`become`), for a time while it is masked (`becoming`). It is still
  called, copied, pickled and asked for its type like the original. `mha.runtime.generated_classes` makes subclasses.
- **A forward in the instance.** For a time, whatever calls the module calls a function of ours, which may run the
  module's own forward or not (`intercepted`). A recorded pass is replayed this way.

Hooks (`mha.runtime.undoing.hooked`) are enough for what merely reads or changes the input or the output of a module.
They can't keep a forward from running, which a replay has to, and can't change what it computes on its way, which a
pruned module has to; and a model that is saved whole takes them along only if pickle finds the hook by its name.

A forward that is set on the instance hides that of the class. accelerate's hooks set one, and so do users. That of
accelerate calls the forward that it found, which it keeps under another name; this one is replaced along with the
class, so that the hooks stay on. What other such forwards call is not known, and they are refused (`why_stuck`,
`why_not_copied`).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial, wraps
from types import FunctionType, MethodType
from typing import Any

from torch import nn

from mha.runtime.undoing import changed, overridden

FORWARD = "forward"
KEPT_BY_ACCELERATE = "_old_forward"  # where accelerate keeps the forward that it found, and from where it calls it
FOLLOWS_CLASS = "_mha_follows_class"  # set on a forward that calls that of the class, whichever the module has by then

# What handles a call: (the call as partial(module, *args, **kwargs), a function that runs the module's own forward on
# the same arguments) -> what the call returns
Handler = Callable[["partial[Any]", Callable[[], Any]], Any]


def become(module: nn.Module, kind: type[nn.Module]) -> None:
    """Give the module this class for good, also where accelerate's hooks call its forward."""
    if _accelerate_keeps_forward(module):
        forward = MethodType(kind.forward, module)
        vars(module)[KEPT_BY_ACCELERATE] = forward
        if hasattr(vars(module)[FORWARD], "__wrapped__"):
            vars(module)[FORWARD].__wrapped__ = forward
    module.__class__ = kind


@contextmanager
def becoming(module: nn.Module, kind: type[nn.Module]) -> Iterator[None]:
    """Within the context the module has this class, also where accelerate's hooks call its forward."""
    kept: AbstractContextManager[None] = nullcontext()
    if _accelerate_keeps_forward(module):
        kept = overridden(module, KEPT_BY_ACCELERATE, MethodType(kind.forward, module))
    with kept, overridden(module, "__class__", kind):
        yield


@contextmanager
def intercepted(modules: Iterable[nn.Module], handle: Handler) -> Iterator[None]:
    """Within the context, a call of one of these modules runs `handle` in place of its forward, and returns its result.

    Args:
        handle: is given the call, as partial(module, *args, **kwargs), and a function that runs the module's own
            forward on the same arguments.
    """
    own = {module: vars(module).get(FORWARD) for module in modules}
    with changed(partial(_put_back, own)):
        for module, forward in own.items():
            vars(module)[FORWARD] = _handled(module, forward, handle)
        yield


def why_stuck(module: nn.Module, name: str) -> str | None:
    """The reason why the class of the module can't be changed; None where it can.

    Args:
        name: the module's name, for the text of the reason; "" where it has none.
    """
    own = vars(module).get(FORWARD)
    if own is None or getattr(own, FOLLOWS_CLASS, False) or _accelerate_keeps_forward(module):
        return None
    where = f"{name}, a {type(module).__name__}," if name else f"the {type(module).__name__}"
    return (
        f"{where} has had its forward replaced by {getattr(own, '__qualname__', own)!r}, which would hide that of "
        "fewer heads; take it off (del module.forward) before, and put it on again after"
    )


def why_not_copied(model: nn.Module) -> str | None:
    """The reason why a copy of the model would run parts of the original, None where it would not.

    It would where a forward set on an instance holds modules of the model in its closure.
    """
    modules = set(model.modules())
    for name, module in model.named_modules():
        own = vars(module).get(FORWARD)
        if "_orig_mod" in module._modules:
            continue  # what torch.compile wrapped makes its forward anew when it is copied
        if isinstance(own, FunctionType) and not modules.isdisjoint(_enclosed(own)):
            where = f"{name or 'the model'} ({type(module).__name__})"
            return (
                f"{where} has had its forward replaced by {own.__qualname__!r}, which in a copy would go on calling "
                "the original; take it off (del module.forward), or prune in place"
            )
    return None


def _handled(module: nn.Module, own: Callable[..., Any] | None, handle: Handler) -> Callable[..., Any]:
    """A forward, to be set on the instance, that leaves its calls to `handle`.

    Args:
        own: the forward that stands in the instance now; None where the class's is called.
    """

    @wraps(module.forward)
    def forward(*args: Any, **kwargs: Any) -> Any:
        run = own or partial(type(module).forward, module)  # the class is read anew: masking changes it
        return handle(partial(module, *args, **kwargs), partial(run, *args, **kwargs))

    if own is None:
        setattr(forward, FOLLOWS_CLASS, True)
    return forward


def _put_back(own: Mapping[nn.Module, Callable[..., Any] | None]) -> None:
    """Set on each module the forward that the mapping has for it; for None, take off the one that is set there."""
    for module, forward in own.items():
        if forward is not None:
            vars(module)[FORWARD] = forward
        else:
            vars(module).pop(FORWARD, None)


def _enclosed(function: FunctionType) -> Iterator[nn.Module]:
    """The modules that a function's closure holds, also as the owner of a bound method or in a function's closure."""
    for cell in function.__closure__ or ():
        value = cell.cell_contents
        value = value.__self__ if isinstance(value, MethodType) else value
        if isinstance(value, nn.Module):
            yield value
        elif isinstance(value, FunctionType) and value is not function:
            yield from _enclosed(value)


def _accelerate_keeps_forward(module: nn.Module) -> bool:
    """Whether accelerate's hooks are on the module, and keep the forward of the module's own class."""
    kept = vars(module).get(KEPT_BY_ACCELERATE)
    return FORWARD in vars(module) and isinstance(kept, MethodType) and kept.__func__ is type(module).forward
