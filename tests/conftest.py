"""A toy model and tokenizer that any test may use."""

import dataclasses

import pytest
import torch

from openglm.checkpoints.load import load_model
from openglm.checkpoints.native import save_model
from openglm.model.transformer import Transformer
from openglm.presets import model_preset
from openglm.text.bpe_training import train_tokenizer
from openglm.text.load import load_tokenizer

LINES = ["床前明月光，疑是地上霜。举头望明月，低头思故乡。", "你好！我是一个很小的模型。"]
LINES += ["The cat sat on the mat, and the dog lay by the door.", "How are you today? I am fine, thank you."]


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="where tests/device computes: cpu, cuda, mps")


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """Folder of a random model with a vocabulary of 340 and a context of 96 tokens, in our own format."""
    folder = tmp_path_factory.mktemp("toy")
    tokenizer = train_tokenizer(LINES * 4, 340, folder / "tokenizer")
    model = Transformer(
        model_preset(
            "nano",
            vocab_size=340,
            layers=2,
            hidden=32,
            heads=2,
            kv_heads=1,
            head_dim=16,
            ffn_hidden=48,
            max_positions=96,
        )
    )
    model.initialize(torch.Generator().manual_seed(3))
    return save_model(folder / "model", model, tokenizer)


@pytest.fixture(scope="session")
def two_blocks(tmp_path_factory):
    """Folder of the first two blocks of the bundled model, in float32: whole weights that have learnt, and soon read."""
    bundled = load_model("nano", device="cpu", dtype="float32")
    model = Transformer(dataclasses.replace(bundled.config, layers=2))
    for path, module in model.named_modules():
        if isinstance(getattr(module, "weight", None), torch.Tensor):
            module.weight.data.copy_(bundled.get_submodule(path).weight)
    return save_model(tmp_path_factory.mktemp("nano"), model, load_tokenizer("nano"))


def pytest_collection_modifyitems(items):
    for item in items:
        if "browser" in item.fixturenames:
            item.add_marker("browser")


def pytest_unconfigure(config):
    """Say last how many of the page's tests ran: without Chromium they are skipped, which nobody should have to look for."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    stats = reporter.stats if reporter else {}
    ran, skipped = (
        {
            report.nodeid
            for kind in kinds
            for report in stats.get(kind, ())
            if "browser" in getattr(report, "keywords", ())
        }
        for kinds in (("passed", "failed"), ("skipped",))
    )
    if ran or skipped:
        reporter.write_line(f"browser tests: {len(ran)} of {len(ran | skipped)} ran")
