"""The contract between the scheduler and the network: one pass as arrays."""

from dataclasses import dataclass

import numpy as np


@dataclass
class Step:
    """One pass of the network over the new tokens of several sequences, laid one after another.

    All arrays are int32 and contiguous. N new tokens, B sequences, L blocks of the longest one, R rows of logits.
    Token j of the new ones of sequence b has the index i = cached[b] + j in its sequence. Its key and value go to place
    i % block_size of block tables[b, i // block_size], and it sees the columns below max(visible[b], i + 1): 0 is
    causal, and for a model that reads part A both ways it is the length of part A.
    """

    ids: np.ndarray
    """[N] token ids"""
    positions: np.ndarray
    """[2, N] as in model/positions.py"""
    new: np.ndarray
    """[B] new tokens of each sequence, at least 1"""
    cached: np.ndarray
    """[B] tokens of each sequence whose keys and values are in its blocks already"""
    visible: np.ndarray
    """[B] columns that all tokens of the sequence see"""
    tables: np.ndarray
    """[B, L] block numbers in order; what lies beyond a sequence's own is arbitrary but a valid number"""
    wanted: np.ndarray
    """[R] places in `ids` whose logits are wanted"""
    adapters: np.ndarray
    """[B] number of each sequence's LoRA in the list that the runner was given; 0: none"""
