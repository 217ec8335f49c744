"""Every kind of folder that opens, in every form: the source's logits and ids, or a refusal that names the part."""

import dataclasses
import sys
from pathlib import Path

import pytest

from openglm import load_tokenizer
from openglm.checkpoints.convert import convert
from openglm.checkpoints.native import save_model
from openglm.checkpoints.quantize import quantize_checkpoint
from openglm.model.transformer import Transformer
from openglm.presets import model_preset

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import conversions

GOLDEN = Path(__file__).parent.parent / "golden"
OTHERS = ("GLM-10B", "GLM-130B", "ChatGLM-6B", "ours")  # networks that neither transformers nor llama.cpp runs
REFUSALS = {
    "int8": "holds int8 codes",
    "int4": "holds int4 codes",
    "prefix": "holds a P-Tuning prefix",
    "reward": "holds a layer for scores",
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", conversions.KINDS)
def test_a_copy_has_the_logits_of_its_source_or_is_refused(kind):
    pytest.importorskip("transformers")
    part = next((what for name, what in REFUSALS.items() if name in kind), None)
    for target, cell in zip(conversions.TARGETS, conversions.cells(kind), strict=True):
        coded = part and "codes" in part and not ("int8" in kind and target == "int4")
        if target != "openglm" and (coded or (target in ("hf", "gguf") and part)):
            assert isinstance(cell, str) and part in cell, (target, cell)
        elif target in ("hf", "gguf") and kind.startswith(OTHERS):
            assert isinstance(cell, str) and ("transformers runs" in cell or "llama.cpp runs" in cell), (target, cell)
        else:
            assert isinstance(cell, float) and cell <= conversions.TOLERANCE[target], (target, cell)


TEXTS = ["床前明月光，疑是地上霜。", "def f(x):\n\treturn x  # 12345", "<|user|> [MASK] ", "\u3000🚀 naïve\r\n"]


@pytest.mark.parametrize(("preset", "file"), [
    ("chatglm-6b", "ice_text.model"), ("chatglm2-6b", "tokenizer.model"), ("glm-4-0414-9b", "tokenizer.json"), ("nano", "tokenizer.json"),
])  # fmt: skip
def test_a_copy_has_the_ids_of_its_source(preset, file, toy, tmp_path):
    source = load_tokenizer(toy if file.endswith("json") else GOLDEN / "sp_tokenizers" / file)
    rows = max(source.vocab_size, *source.special.values()) + 4
    shape = dict(vocab_size=rows, layers=1, hidden=32, heads=2, kv_heads=2, head_dim=16, ffn_hidden=32)
    config = dataclasses.replace(model_preset(preset, **shape, max_positions=64), tokens=source.tokens)
    folder = save_model(tmp_path / "source", Transformer(config), source)
    copies = [convert(folder, tmp_path / "ours", "openglm"), quantize_checkpoint(folder, tmp_path / "int8", 8, 16)]
    copies += [convert(folder, tmp_path / "hf", "hf")] if preset == "glm-4-0414-9b" else []
    question = [{"role": "user", "content": TEXTS[0]}]
    for copy in map(load_tokenizer, copies):
        assert copy.special == source.special
        assert [copy.encode(text) for text in TEXTS] == [source.encode(text) for text in TEXTS]
    for copy in map(load_tokenizer, copies[:2]):
        assert copy.format.name == source.format.name
        assert copy.render(question, generation_prompt=True) == source.render(question, generation_prompt=True)
