"""What tunes an adapter: the base stays as it is, a broken run equals an unbroken one, two processes equal one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.adapter_runs import base_model, run_adapter
from helpers.crashes import Crash, assert_same, crash_at
from helpers.tiny_runs import MODEL, Rows, log_lines
from safetensors.torch import load_file

from openglm.checkpoints.load import load_model
from openglm.checkpoints.sharded import whole_tensors
from openglm.config import LoraConfig, PrefixConfig
from openglm.model.adapters import Prefix

HELPER = Path(__file__).parents[1] / "helpers" / "adapter_runs.py"
KINDS = {
    "lora": {"adapter": "lora"},
    "lora over int4": {"adapter": "lora", "quantize": "int4", "lora": LoraConfig(4, targets=("q_proj", "down_proj"))},
    "prefix": {"adapter": "prefix"},
    "projected prefix over int8": {
        "adapter": "prefix",
        "quantize": "int8",
        "prefix": PrefixConfig(3, projection=True, dropout=0.1),
    },
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return base_model(tmp_path_factory.mktemp("base") / "model")


@pytest.mark.parametrize("kind", KINDS)
def test_the_adapter_alone_is_trained_and_what_is_written_is_what_was_trained(base, tmp_path, kind):
    before = (base / "model.safetensors").read_bytes()
    result = run_adapter(base, tmp_path / "run", **KINDS[kind], activation_checkpointing=True)
    weights = dict(whole_tensors(tmp_path / "run" / "checkpoints" / "step-00000012", "weights"))
    assert all(name.startswith(("lora.", "prefix_encoder.")) for name in weights)
    assert not (tmp_path / "run" / "model").exists() and (base / "model.safetensors").read_bytes() == before
    losses = [line["loss"] for line in log_lines(tmp_path / "run") if "loss" in line]
    assert losses[-1] < losses[0], "it learns"
    quantize = KINDS[kind].get("quantize")
    model = load_model(base, adapter=str(result.model), device="cpu", quantize=quantize)
    row = Rows(9).row(0)
    ids = torch.from_numpy(row.tokens)[None]
    positions = torch.stack([torch.from_numpy(row.position), torch.from_numpy(row.block_position)])[None]
    plain = load_model(base, device="cpu", quantize=quantize)
    assert (model(ids, positions) - plain(ids, positions)).abs().max() > 1e-3
    if model.lora:
        model.lora.detach(model)
    model.prefix = None
    assert torch.equal(model(ids, positions), plain(ids, positions)), "without it the base is as it was"


@pytest.mark.parametrize("kind", ["lora over int4", "projected prefix over int8"])
def test_a_broken_run_equals_an_unbroken_one(base, tmp_path, kind):
    options = {**KINDS[kind], "ema": 0.5}
    if "lora" in options:
        options["lora"] = LoraConfig(2, targets=("all",), dropout=0.2)
    run_adapter(base, tmp_path / "whole", **options)
    for step in (2, 7):
        with pytest.raises(Crash):
            run_adapter(base, tmp_path / "broken", on_step=crash_at(step), **options)
    result = run_adapter(base, tmp_path / "broken", **options)
    assert_same(tmp_path / "whole", tmp_path / "broken")
    name = next(path.name for path in result.model.glob("*.safetensors"))
    whole = load_file(tmp_path / "whole" / "adapter" / name)
    assert all(torch.equal(tensor, whole[key]) for key, tensor in load_file(result.model / name).items())


def test_two_processes_train_the_adapter_of_one(base, tmp_path):
    runs = {
        "lora": {"adapter": "lora"},
        "lora, shared base": {"adapter": "lora", "parallel": {"zero": 3}},
        "int4": {"adapter": "lora", "quantize": "int4"},
        "prefix": {"adapter": "prefix"},
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(HELPER)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, str(base), str(tmp_path / "two"), json.dumps(runs)], check=True, env=environment)
    for name, options in runs.items():
        options.pop("parallel", None)
        one = run_adapter(base, tmp_path / "one" / name, **options).model
        for path in one.glob("*.safetensors"):
            found = load_file(tmp_path / "two" / name / "adapter" / path.name)
            for key, tensor in load_file(path).items():
                torch.testing.assert_close(found[key], tensor, rtol=0, atol=1e-5, msg=f"{name}: {key}")


def test_products_of_codes_pass_gradients_on_under_autocast(base):
    """As the widened matrix does; its own memory would be that of the whole model."""
    model = load_model(base, device="cpu", quantize="int8")
    layer = model.blocks[0].ffn.up_proj
    x = torch.randn(3, MODEL.hidden, requires_grad=True)
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.bfloat16, 2e-2)):
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = layer(x).float().square().sum()
        (found,) = torch.autograd.grad(loss, x)
        wanted = (2 * (x @ layer.weight.T) @ layer.weight).detach()
        torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance * float(wanted.abs().max()))


@pytest.mark.parametrize("changes, named", [
    ({"lora": LoraConfig(40)}, r"lora.rank = 40: must be at most 16, the smaller side of q_proj"),
    ({"lora": LoraConfig(2, targets=("query",))}, r"lora.targets = 'query': no such matrix; known: q_proj, k_proj"),
    ({"parallel": {"tensor": 2}}, r"parallel.tensor = 2: an adapter is trained by data-parallel"),
    ({"adapter": "none", "quantize": "int4"}, r"quantize = 'int4': trains no model; give --adapter"),
])  # fmt: skip
def test_what_cannot_be_trained_is_refused(base, tmp_path, changes, named):
    with pytest.raises(ValueError, match=named):
        run_adapter(base, tmp_path / "run", **{"adapter": "lora", **changes})
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_prefix_is_seen_by_every_token_as_a_cache_shows_it(base):
    """The way of training against the plain cache that generation uses."""
    from openglm.model.cache import KVCache

    model, draw = load_model(base, device="cpu"), torch.Generator().manual_seed(1)
    prefix = Prefix(*torch.randn(2, MODEL.layers, MODEL.kv_heads, 3, MODEL.head_dim, generator=draw))
    ids = torch.randint(10, 40, (2, 9), generator=draw)
    positions = torch.stack([torch.arange(9), torch.zeros(9, dtype=torch.long)])[None].expand(2, -1, -1)
    past = torch.ones(1, 1, 9, 9, dtype=torch.bool).tril()
    cache = KVCache(MODEL, 2, 9, model.device, model.dtype, prefix)
    wanted = model(ids, positions, prefix.widen(past), cache)
    model.prefix = prefix
    torch.testing.assert_close(model(ids, positions), wanted)
