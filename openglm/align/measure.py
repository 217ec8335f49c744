"""What a network says of the tokens of rows, without training: log-probabilities and scores.

Shapes: B rows, T tokens, H hidden.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openglm.data.mixture import Row, stacked
from openglm.model.transformer import Transformer
from openglm.train.forward_backward import hidden_states
from openglm.train.objective import Batch, Head

Read = Callable[[Head, Tensor, Batch], Tensor]
"""(head, hidden states [B, T, H], the rows' arrays) -> a number for each token [B, T]"""


@torch.no_grad()
def measure(
    model: Transformer, rows: Iterable[Row], dtype: torch.dtype, read: Read, at_once: int = 1
) -> Iterator[NDArray[np.float32]]:
    """What `read` finds in each row [T], in order; `at_once` rows go through the network together."""
    head = Head(model, dtype)
    waiting = iter(rows)
    while several := list(itertools.islice(waiting, at_once)):
        batch = stacked(several)
        hidden_BTH = hidden_states(model, batch, model.device, dtype)
        yield from read(head, hidden_BTH, batch).float().cpu().numpy()


def log_probabilities(temperature: float = 1.0) -> Read:
    """Of the trained targets, as they are drawn at a temperature; 0 elsewhere."""

    def read(head: Head, hidden_BTH: Tensor, batch: Batch) -> Tensor:
        targets_BT, trained_BT = (
            torch.from_numpy(values).to(hidden_BTH.device) for values in (batch["targets"], batch["loss_mask"] > 0)
        )
        found_BT = hidden_BTH.new_zeros(trained_BT.shape, dtype=torch.float32)
        found_BT[trained_BT] = head.log_probability(hidden_BTH[trained_BT] / temperature, targets_BT[trained_BT])
        return found_BT

    return read


def scores(head: Head, hidden_BTH: Tensor, batch: Batch) -> Tensor:
    """What the layer for scores says at every token."""
    return head.scores(hidden_BTH)
