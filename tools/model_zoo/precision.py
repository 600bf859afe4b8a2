"""Run a model in double precision throughout, also where its code asks for less.

Most models compute norms, softmax, rotary angles or routing in float32 whatever the type of their weights. A
comparison to 1e-9 then depends on which way a value happens to be rounded.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

WIDER = {
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.float32: torch.float64,
    torch.complex64: torch.complex128,
}
CASTS = {Tensor.float, Tensor.half, Tensor.bfloat16}
IMPORTS = {torch.from_numpy, torch.tensor, torch.as_tensor}


class DoublePrecision(TorchFunctionMode):
    """Within this context, every request for a narrower floating-point type is one for float64 or complex128."""

    def __enter__(self) -> "DoublePrecision":
        self._default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        torch.set_default_dtype(self._default)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in CASTS:
            return args[0].double()
        result = func(*map(_wider, args), **{name: _wider(value) for name, value in (kwargs or {}).items()})
        return result.double() if func in IMPORTS and result.dtype in WIDER else result


def _wider(value: Any) -> Any:
    return WIDER.get(value, value) if isinstance(value, torch.dtype) else value
