"""A watch for waits on the device, which works on a machine that has only a CPU."""

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["HostSyncError", "NoHostSync"]


class HostSyncError(RuntimeError):
    pass


class NoHostSync(TorchDispatchMode):
    """Fails where a value, or a shape that depends on values, would have to come back from the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        selectors = [x for x in tree_leaves(args[1:]) if isinstance(x, Tensor)]
        masked = any(x.dtype in (torch.bool, torch.uint8) for x in selectors)
        if name in ("_local_scalar_dense", "item", "nonzero", "masked_select", "is_nonzero", "equal"):
            raise HostSyncError(name)
        # Torch makes a masked_fill of putting a single number where a mask says so.
        fills = name != "index" and len(args) > 2 and isinstance(args[2], Tensor) and args[2].numel() == 1
        if name in ("index", "index_put", "index_put_") and masked and not fills:
            raise HostSyncError(f"{name} with a mask")
        return func(*args, **(kwargs or {}))
