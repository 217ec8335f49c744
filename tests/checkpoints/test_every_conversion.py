"""Every kind of folder that opens, in every form: the source's logits and ids, or a refusal that names the part."""

import shutil
import sys
from pathlib import Path

import pytest

from openglm import load_tokenizer
from openglm.checkpoints.convert import convert
from openglm.checkpoints.quantize import quantize_checkpoint

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
        coded = part and "codes" in part
        if target != "openglm" and (coded or (target in ("hf", "gguf") and part)):
            assert isinstance(cell, str) and part in cell, (target, cell)
        elif target in ("hf", "gguf") and kind.startswith(OTHERS):
            assert isinstance(cell, str) and ("transformers runs" in cell or "llama.cpp runs" in cell), (target, cell)
        else:
            assert isinstance(cell, float) and cell <= conversions.TOLERANCE[target], (target, cell)


TEXTS = ["床前明月光，疑是地上霜。", "def f(x):\n\treturn x  # 12345", "<|user|> [MASK] ", "\u3000🚀 naïve\r\n"]


@pytest.mark.parametrize(("name", "file"), [
    ("chatglm_6b/checkpoint", "ice_text.model"), ("chatglm2_6b/checkpoint", "tokenizer.model"), ("chatglm3_6b/checkpoint", "tokenizer.model"),
    ("glm4_0414/checkpoint", "tokenizer.json"), ("glm_hf/checkpoint", "tokenizer.json"),
])  # fmt: skip
def test_a_copy_has_the_ids_of_its_source(name, file, toy, tmp_path):
    folder = shutil.copytree(GOLDEN / name, tmp_path / "source")
    shutil.copy(toy / file if file.endswith("json") else GOLDEN / "sp_tokenizers" / file, folder)
    if "chatglm3" in name:  # the same file serves two generations
        (folder / "tokenizer_config.json").write_text('{"name_or_path": "THUDM/chatglm3-6b"}')
    source = load_tokenizer(folder)
    copies = [convert(folder, tmp_path / "ours", "openglm"), quantize_checkpoint(folder, tmp_path / "int8", 8, 16)]
    copies += [] if "chatglm_6b" in name else [convert(folder, tmp_path / "hf", "hf")]
    question = [
        {"role": "user", "content": TEXTS[0]},
        {"role": "assistant", "content": "好"},
        {"role": "user", "content": "?"},
    ]
    for copy in map(load_tokenizer, copies):
        assert (copy.format.name, copy.special) == (source.format.name, source.special)
        assert [copy.encode(text) for text in TEXTS] == [source.encode(text) for text in TEXTS]
        assert copy.render(question, generation_prompt=True) == source.render(question, generation_prompt=True)
