"""`glm bench`: its keys, its sums and its refusals. What it measures is held to nothing here: that is the machine's business."""

import json

import pytest
import torch

import openglm
from openglm.cli.bench import random_model, random_prompt, weight_bytes
from openglm.cli.main import main
from openglm.presets import model_preset

KEYS = {
    "prefill_tokens_per_s", "decode_tokens_per_s", "time_to_first_token_s", "weight_bytes", "peak_rss_bytes", "read_bandwidth_bytes_per_s", "machine_bandwidth_bytes_per_s",
    "read_bandwidth_share", "runner", "requests",
}  # fmt: skip


@pytest.fixture(autouse=True)
def quick_probe(monkeypatch):
    monkeypatch.setattr("openglm.cli.bench._PROBE_BYTES", 1 << 20)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("quantize", ["none", "int8", "int4"])
def test_reports_every_key_for_models_and_shapes(capsys, two_blocks, layers, quantize):
    source = ["--shape", "nano", "--layers", "1"] if layers == 1 else [str(two_blocks)]
    assert (
        main(
            [
                "bench",
                *source,
                "--quantize",
                quantize,
                "--prompt-tokens",
                "20",
                "--new-tokens",
                "4",
                "--requests",
                "2",
                "--json",
            ]
        )
        == 0
    )
    report = json.loads(capsys.readouterr().out)
    assert report.keys() == KEYS and all(report[key] > 0 for key in KEYS - {"runner"})
    shape = model_preset("nano", layers=1) if layers == 1 else openglm.load_model(two_blocks, device="cpu").config
    shares = {
        "none": (0.9, 1.1),
        "int8": (0.2, 0.3),
        "int4": (0.1, 0.24),
    }  # most of so few layers of nano is its table, which stays in 8 bits
    assert shares[quantize][0] < report["weight_bytes"] / (4 * shape.parameters) < shares[quantize][1]


def test_text_and_json_say_the_same_keys(capsys):
    assert main(["bench", "--shape", "nano", "--layers", "1", "--prompt-tokens", "9", "--new-tokens", "2"]) == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()} == KEYS


def test_a_table_that_is_looked_up_is_neither_read_nor_in_memory():
    untied, tied = (random_model(model_preset("nano", layers=1, tied=tied), "int4") for tied in (False, True))
    others = sum(t.nbytes for name, t in untied.state_dict().items() if not name.startswith("embedding."))
    assert weight_bytes(untied) == (others, others)
    assert weight_bytes(tied)[0] == weight_bytes(tied)[1] == others


@pytest.mark.parametrize("preset", ["chatglm-6b", "glm-4-9b-chat", "glm-10b"])
@pytest.mark.parametrize("quantize", [None, "int8", "int4"])
def test_random_models_of_every_kind_give_finite_logits(preset, quantize):
    shape = model_preset(
        preset,
        vocab_size=2048,
        layers=2,
        hidden=128,
        heads=2,
        kv_heads=2,
        head_dim=64,
        ffn_hidden=128,
        tokens=dict(mask=1, gmask=2, sop=4, stop=[5]),
    )
    logits = random_model(shape, quantize).logits(torch.tensor([random_prompt(shape, 12, 0)]))
    assert torch.isfinite(logits).all() and logits.std() > 0


@pytest.mark.parametrize(
    "argv,word",
    [
        ([], "model or a shape"), (["nano", "--shape", "nano"], "model or a shape"), (["--shape", "nana"], "glm-4-9b"), (["nano", "--layers", "2"], "--shape"),
        (["nano", "--requests", "0"], "--requests"), (["nano", "--new-tokens", "1"], "--new-tokens"), (["nano", "--prompt-tokens", "1200"], "context of 1024"),
    ],
)  # fmt: skip
def test_wrong_options_are_one_line(capsys, argv, word):
    assert main(["bench", *argv]) == 1
    err = capsys.readouterr().err.strip().splitlines()
    assert word in err[-1]
