"""deepspeed.comm: torch.distributed under the name that DeepSpeed's scripts know it by."""

from typing import Any

import torch.distributed as dist

from openglm.deepspeed.groups import init_distributed

__all__ = ["init_distributed"]


def __getattr__(name: str) -> Any:
    try:
        return getattr(dist, name)
    except AttributeError:
        raise AttributeError(
            f"openglm.deepspeed.comm has no {name!r}: it is torch.distributed, which has none"
        ) from None
