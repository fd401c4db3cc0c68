"""What a computation asks of a machine: floating-point operations, and bytes that its operators read and write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Work:
    """What one call does.

    Attributes:
        flops: operations of matrix products, convolutions and attention; a multiplication and an addition are two.
        bytes: of every operator's inputs and outputs, views left out: traffic as if nothing stayed in a cache.
    """

    flops: int
    bytes: int


def counted(work: Callable[[], Any]) -> Work:
    """The work that one call of ``work`` does, with attention written out as the matrix products it is."""
    with sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        with FlopCounterMode(display=False) as flops:
            work()
        with _Traffic() as traffic:
            work()
    return Work(flops.get_total_flops(), traffic.bytes)


class _Traffic(TorchDispatchMode):
    """Adds up bytes of inputs and outputs of all operators that do not just return a view."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            held = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)]
            self.bytes += sum(_nbytes(x) for x in held)
        return result


def _nbytes(x: Tensor) -> int:
    """Bytes of the distinct elements of ``x``: what is expanded is stored once."""
    distinct = 1
    for size, stride in zip(x.shape, x.stride(), strict=True):
        distinct *= size if stride or not size else 1
    return distinct * x.element_size()
