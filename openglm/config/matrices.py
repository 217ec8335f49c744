"""What is known of a matrix of the network, to count it, cut it or quantize it: see `ModelConfig.matrices`."""

from dataclasses import dataclass
from typing import Literal

LOGITS_BITS = 8  # of the matrix that makes the logits, whatever the layers have: docs/performance.md


@dataclass(frozen=True)
class Matrix:
    """The weight [rows, columns] of a linear layer, which has an output a row, or of a table."""

    name: str
    """of its module"""
    rows: int
    columns: int
    role: Literal["layer", "lookup", "logits", "positions"]
    """part of a layer; a table that is only looked up; what makes the logits, a tied table too; a table of positions"""
    reads: Literal["ids", "attention", "attended", "ffn", "inner", "final"]
    """what goes in; matrices of one layer that read the same can be one product"""
    cut: Literal["rows", "columns", "whole"]
    """how tensor-parallel processes share it (Megatron-LM)"""
    bias: bool = False
    """whether a number is added to each output"""

    @property
    def size(self) -> int:
        """Weights, without the bias."""
        return self.rows * self.columns

    def quantized_bits(self, bits: int) -> int:
        """Bits of a weight where layers have `bits`, 8 or 4; 0: it is not quantized."""
        return {"layer": bits, "lookup": bits, "logits": LOGITS_BITS, "positions": 0}[self.role]
