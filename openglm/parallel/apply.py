"""Parallelizes the one network over processes, from outside: blocks over pipeline stages, matrices over tensor-parallel
processes, weights, gradients and the
optimizer's state over data-parallel ones. PyTorch's FSDP2, DTensor and pipelining do the work; the network does not
know.

It is made without memory first and filled matrix by matrix, each process its own share, so no process ever holds it
whole.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    SequenceParallel,
    loss_parallel,
    parallelize_module,
)

from openglm.config import ModelConfig, ParallelConfig, require
from openglm.model.transformer import Block, Transformer, initialize_weight
from openglm.parallel.processes import Processes, local_part, local_shard
from openglm.parallel.stages import divisors, near, stage_counts, stage_layers

Weights = Callable[[str, torch.Size], Tensor]


def check_layout(config: ParallelConfig, model: ModelConfig, group: Processes, rows: int, micro_batches: int) -> None:
    """Raise the one-line error of the first number that does not divide, with those that would. rows: of a step;
    micro_batches: of each process.
    """
    tensor, pieces, data = config.tensor, config.pipeline * config.chunks, group.size("data")
    fits = [n for n in divisors(model.kv_heads) if model.ffn_hidden % n == 0 and model.vocab_size % n == 0]
    wanted = f"must divide the key/value heads ({model.kv_heads}), the feed-forward width ({model.ffn_hidden}) and the vocabulary ({model.vocab_size})"
    require(tensor in fits, "parallel.tensor", tensor, f"{wanted}; these would: {near(fits, tensor)}")
    stages = [n for n in stage_counts(model.layers) if n % config.chunks == 0]
    name = "parallel.pipeline" if config.chunks == 1 else "parallel.pipeline x chunks"
    require(
        pieces in stages,
        name,
        pieces,
        f"must divide the {model.layers} layers, or {model.layers + 2} with lighter end stages; these would: "
        f"{near(stages, pieces)}",
    )
    require(
        rows % (data * micro_batches) == 0,
        "train.batch_rows",
        rows,
        f"must be a multiple of parallel.data x train.accumulation ({data} x {micro_batches})",
    )
    if config.pipeline > 1:
        require(
            config.zero == 1,
            "parallel.zero",
            config.zero,
            "a pipeline sums gradients over all its micro-batches before it shares them out: use 1",
        )
        require(
            micro_batches >= config.pipeline,
            "train.accumulation",
            micro_batches,
            f"a pipeline of {config.pipeline} stages needs at least as many micro-batches",
        )
        multiple = config.schedule not in ("interleaved", "zero-bubble") or micro_batches % config.pipeline == 0
        require(
            multiple,
            "train.accumulation",
            micro_batches,
            f"must be a multiple of the {config.pipeline} stages for the schedule {config.schedule}",
        )


def parallelize(
    model: ModelConfig, config: ParallelConfig, group: Processes, dtype: torch.dtype, weights: Weights
) -> list[Transformer]:
    """The pieces of the network that this process trains (several under an interleaved schedule), with their weights in
    fp32 on its device.

    weights(name, shape) gives a whole parameter on the CPU. dtype: compute type of products. One process gets the plain
    network.
    """
    count = config.pipeline * config.chunks
    pieces = [_piece(model, index, count) for index in range(group.rank("pipeline"), count, config.pipeline)]
    for piece in pieces:
        if mesh := group.shared("tensor"):
            _split_matrices(piece, mesh)
        if mesh := group.shared("data"):
            _share_out(piece, mesh, config.zero, dtype)
        piece.to_empty(device=group.device)
        with torch.no_grad():
            for name, parameter in piece.named_parameters():
                local_part(parameter).copy_(local_shard(weights(name, parameter.shape), parameter))
    return pieces


def initial_weights(config: ModelConfig, seed: int) -> Weights:
    """Random weights that depend on the seed and the parameter's name alone, so that each process can make its own."""

    def make(name: str, shape: torch.Size) -> Tensor:
        weight = torch.empty(shape)
        initialize_weight(config, name, weight, torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode())))
        return weight

    return make


def given_weights(model: Transformer, missing: Weights) -> Weights:
    """Those of a model that is whole, int8 and int4 codes as the numbers they stand for; a new layer for scores gets
    the weights of `missing`."""
    modules = dict(model.named_modules())

    def find(name: str, shape: torch.Size) -> Tensor:
        path, _, leaf = name.rpartition(".")
        return getattr(modules[path], leaf) if modules.get(path) is not None else missing(name, shape)

    return find


def share(model: Transformer, config: ParallelConfig, group: Processes, dtype: torch.dtype) -> Transformer:
    """Spread a network that has its weights over data-parallel processes. Those that are not trained stay whole in
    each, unless parallel.zero is 3."""
    if mesh := group.shared("data"):
        _share_out(model, mesh, config.zero, dtype)
    return model


def named_parameters(pieces: Iterable[Transformer]) -> Iterator[tuple[str, nn.Parameter]]:
    """Trained parameters of all pieces, under their names in the whole network."""
    for piece in pieces:
        yield from ((name, parameter) for name, parameter in piece.named_parameters() if parameter.requires_grad)


def vocabulary_loss(group: Processes) -> AbstractContextManager:
    """Where logits are cut over the vocabulary, cross entropy and its gradient belong inside this block: no process
    ever has a whole row of them.
    """
    return loss_parallel() if group.shared("tensor") else nullcontext()


def gather_gradients(model: nn.Module, last: bool, zero: int) -> None:
    """Before the backward pass of a micro-batch: whether gradients are summed over data-parallel processes after it,
    and weights given back.
    """
    if isinstance(model, FSDPModule):
        model.set_is_last_backward(last)
        model.set_requires_gradient_sync(last or zero > 1)
        model.set_reshard_after_backward(last or zero > 2)


def reshard(model: nn.Module) -> None:
    """After forward passes without a backward pass: drop the gathered weights, which would not follow a change of the
    shares.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


class Passthrough(nn.Module):
    """Stands where another stage has a part of the network; what comes in goes out."""

    def forward(self, hidden: Tensor, *_: object) -> Tensor:
        return hidden


def _piece(config: ModelConfig, index: int, count: int) -> Transformer:
    """The network without memory, with all but the blocks of one stage taken out. The table of a tied network is in the
    first and in the last.
    """
    with torch.device("meta"):
        model = Transformer(config)
    layers = stage_layers(config.layers, count)
    mine = range(sum(layers[:index]), sum(layers[: index + 1]))
    for layer in set(range(config.layers)) - set(mine):
        model.blocks[layer] = Passthrough()
    first, last = index == 0, index == count - 1
    if not first:
        model.embed = lambda hidden, _: hidden  # type: ignore[method-assign, assignment]  # this stage embeds nothing
        model.position_embedding = model.block_position_embedding = None
    if not first and not (last and config.tied):
        model.embedding = Passthrough()
    if not last:
        model.final_norm, model.head = Passthrough(), None
    return model


def _split_matrices(model: Transformer, mesh: DeviceMesh) -> None:
    """Column and row parallel blocks, a table and logits cut over the vocabulary (Megatron-LM, arXiv 1909.08053)."""
    columns, rows = ColwiseParallel, RowwiseParallel  # of the activations: a matrix is cut by its rows, or its columns
    plan = {m.name: columns() if m.cut == "rows" else rows() for m in model.config.layer_matrices()}
    if model.config.qk_norm:  # one weight for all heads: its gradient is summed over those who hold some of them
        plan |= {
            f"attention.{name}": SequenceParallel(sequence_dim=2, use_local_output=True)
            for name in ("q_norm", "k_norm")
        }
    for block in model.blocks:
        if isinstance(block, Block):
            parallelize_module(block, mesh, plan)
    if isinstance(model.embedding, nn.Embedding):
        parallelize_module(model.embedding, mesh, rows(input_layouts=Replicate()))
    if model.head is not None:
        parallelize_module(model.head, mesh, columns())

    def project(hidden: Tensor) -> Tensor:
        table = model.embedding.weight if model.head is None else model.head.weight
        return F.linear(DTensor.from_local(hidden, mesh, [Replicate()], run_check=False), table.to(hidden.dtype))

    model.project = project  # type: ignore[method-assign]


def _share_out(model: Transformer, mesh: DeviceMesh, zero: int, dtype: torch.dtype) -> None:
    """ZeRO by FSDP2: the optimizer sees fp32 shares; products see gathered weights in their own type; gradients are
    summed in fp32.
    """
    policy = MixedPrecisionPolicy(
        param_dtype=None if dtype == torch.float32 else dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    whole = {parameter for parameter in model.parameters() if zero < 3 and not parameter.requires_grad}
    for block in model.blocks:
        if isinstance(block, Block):
            fully_shard(block, mesh=mesh, reshard_after_forward=zero == 3, mp_policy=policy, ignored_params=whole)
    # The table is needed again for the logits.
    fully_shard(model, mesh=mesh, reshard_after_forward=False, mp_policy=policy, ignored_params=whole)
    for module in model.modules():
        if isinstance(
            module, FSDPModule
        ):  # the loss is divided by the tokens of all, so gradients are summed and not averaged
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
