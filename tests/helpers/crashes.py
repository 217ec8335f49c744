"""Runs that break off, and what they are held against."""

import json

import torch

from helpers.tiny_runs import log_lines
from openglm.checkpoints.sharded import KINDS, whole_tensors


class Crash(Exception):
    pass


def crash_at(*steps):
    def on_step(step, record):
        if step in steps:
            raise Crash

    return on_step


def everything(out, step=12):
    """All that a later step could depend on: tensors by kind and name, the record beside them, and the log."""
    folder = out / "checkpoints" / f"step-{step:08d}"
    tensors = {kind: dict(whole_tensors(folder, kind)) for kind in KINDS}
    record = json.loads((folder / "state.json").read_text())
    record["settings"].pop("train.out")
    return tensors, record, log_lines(out)


def assert_same(one, other):
    (tensors, *rest), (other_tensors, *other_rest) = everything(one), everything(other)
    assert rest == other_rest
    assert tensors.keys() == other_tensors.keys()
    for file, named in tensors.items():
        assert named.keys() == other_tensors[file].keys()
        for name, tensor in named.items():
            assert torch.equal(tensor, other_tensors[file][name]), (file, name)
