"""A trained reward model as a judge of answers."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from openglm.align.measure import measure
from openglm.checkpoints.load import load_model
from openglm.config import require
from openglm.data.dialogue import conversation_sample
from openglm.data.mixture import Row, pack
from openglm.data.prompts import Prompt
from openglm.text.load import load_tokenizer
from openglm.train.objective import Batch, Head


class RewardModel:
    """`RewardModel(folder)(prompts, answers)` gives the reward of each answer, read where it ends."""

    def __init__(self, folder: str, device: str = "auto") -> None:
        self.model, self.tokenizer = load_model(folder, device=device, dtype="float32"), load_tokenizer(folder)
        require(
            self.model.score is not None, "rollout.reward_model", folder, "is no reward model; `glm reward` makes one"
        )

    def __call__(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[float]:
        rows = [self._row(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
        return [float(values.sum()) for values in measure(self.model, rows, torch.float32, _at_the_end)]

    def _row(self, prompt: Prompt, answer: str) -> Row:
        config = self.model.config
        before = [{**message, "loss": False} for message in prompt.messages]
        ids, trained = self.tokenizer.render([*before, {"role": "assistant", "content": answer}], tools=prompt.tools)
        require(
            len(ids) - 1 <= config.max_positions,
            "rollout.reward_model",
            f"{len(ids) - 1} tokens",
            f"longer than its context of {config.max_positions}",
        )
        sample = conversation_sample(ids, trained, config.tokens, config.span_positions)
        return pack([sample], len(sample), config.tokens.pad)


def _at_the_end(head: Head, hidden_BTH: Tensor, batch: Batch) -> Tensor:
    places_BT = np.arange(hidden_BTH.shape[1]) * (batch["loss_mask"] > 0)
    ends_BT = places_BT == places_BT.max(1, keepdims=True)
    return head.scores(hidden_BTH) * torch.from_numpy(ends_BT).to(hidden_BTH.device)
