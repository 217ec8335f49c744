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
from openglm.train.objective import Head

Read = Callable[[Head, Tensor, Row], Tensor]
"""(head, hidden states [T, H], row) -> a number for each token [T]"""


@torch.no_grad()
def measure(
    model: Transformer, rows: Iterable[Row], dtype: torch.dtype, read: Read, at_once: int = 1
) -> Iterator[NDArray[np.float32]]:
    """What `read` finds in each row [T], in order; `at_once` rows go through the network together."""
    head = Head(model, dtype)
    waiting = iter(rows)
    while batch := list(itertools.islice(waiting, at_once)):
        hidden_BTH = hidden_states(model, stacked(batch), model.device, dtype)
        for hidden_TH, row in zip(hidden_BTH, batch, strict=True):
            yield read(head, hidden_TH, row).float().cpu().numpy()


def log_probabilities(temperature: float = 1.0) -> Read:
    """Of the trained targets, as they are drawn at a temperature; 0 elsewhere."""

    def read(head: Head, hidden_TH: Tensor, row: Row) -> Tensor:
        trained = torch.from_numpy(row.loss_mask).nonzero()[:, 0].to(hidden_TH.device)
        targets = torch.from_numpy(row.targets).to(hidden_TH.device)[trained]
        found_T = hidden_TH.new_zeros(len(hidden_TH), dtype=torch.float32)
        return found_T.index_copy(0, trained, head.log_probability(hidden_TH[trained] / temperature, targets))

    return read


def scores(head: Head, hidden_TH: Tensor, row: Row) -> Tensor:
    """What the layer for scores says at every token."""
    return head.scores(hidden_TH)
