"""Training of an adapter alone: the network it is added to stays as it is, and is not written."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from openglm.checkpoints.adapters import home_layout, new_encoder, write_lora, write_prefix
from openglm.checkpoints.load import load_model, open_checkpoint
from openglm.config import ModelConfig, SFTConfig, require
from openglm.model.adapters import Lora, PrefixEncoder
from openglm.model.transformer import Transformer


@dataclass(frozen=True)
class Adapter:
    """What a run trains in place of the model."""

    options: SFTConfig
    base: str
    """folder of the model"""

    def make(self, model: ModelConfig) -> Lora | PrefixEncoder:
        """As training begins. Raises ValueError for options that do not fit the network."""
        options = self.options
        if options.adapter == "lora":
            return Lora.fresh(model, options.lora, options.train.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.train.seed)
            return new_encoder(model, options.prefix)

    def network(self, device: torch.device) -> Transformer:
        """The model with a new adapter, which alone is to be trained."""
        quantize = None if self.options.quantize == "none" else self.options.quantize
        network = load_model(self.base, device=str(device), quantize=quantize)
        adapter = self.make(network.config).to(device)
        if isinstance(adapter, Lora):
            adapter.attach(network)
        else:
            there = "has a P-Tuning prefix already; give the base model without it"
            require(network.prefix is None, "init_from", self.base, there)
            network.prefix_encoder = adapter
        return network

    def write(self, folder: Path, model: ModelConfig, tensors: Iterable[tuple[str, Tensor]]) -> Path:
        """The adapter's folder. tensors: as trained, by their names in the network."""
        found = {name.partition(".")[2]: tensor for name, tensor in tensors}
        if self.options.adapter == "prefix":
            return write_prefix(folder, found, self.options.prefix)
        lora = self.make(model)
        assert isinstance(lora, Lora)
        lora.load_state_dict(found, strict=False)  # layers that share a matrix have it once
        layout = home_layout(model, open_checkpoint(self.base).source.layout)
        return write_lora(folder, lora, model, layout, self.options.lora, self.base)
