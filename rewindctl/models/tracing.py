"""Tracing a module while other threads train."""

import threading
from typing import Any

import torch
from torch import nn

# The generator that constructors draw from, and what tracing puts in place of nn.Module's methods, are the process's:
# one thread at a time builds or traces, while others may train.
BUILDING = threading.RLock()


class OwnThread(torch.fx.Tracer):
    """Traces what its own thread calls; networks that other threads train meanwhile work as ever."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        own = threading.get_ident() == self._thread
        return super().call_module(m, forward, args, kwargs) if own else forward(*args, **kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        own = threading.get_ident() == self._thread
        return super().getattr(attr, attr_val, parameter_proxy_cache) if own else attr_val
