"""Checkpoints made by the original modelling code of each generation: the same logits, tokens, positions and masks (tests/golden)."""

import functools
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from openglm.checkpoints.load import load_model
from openglm.model.generate import generate
from openglm.model.positions import describe, training_mask
from openglm.quant.layers import QuantizedLinear

GOLDEN = Path(__file__).parent.parent / "golden"
TOLERANCE = 2e-4  # logits reach 22; an independent implementation agrees to 6e-5, real mistakes show at 4.5e-4 and more
GLM10B, GLM130B = (
    {"config": str(GOLDEN / "glm_10b/checkpoint/config.json")},
    {"config": str(GOLDEN / "glm_130b/model_args.json")},
)
# family: (checkpoint folder, options of load_model, name of the run in the golden file)
CASES = [
    (name, "checkpoint", {}, "fp32")
    for name in (
        "chatglm_6b",
        "chatglm_6b_first",
        "chatglm2_6b",
        "chatglm3_6b",
        "glm4_9b",
        "glm_hf",
        "glm4_0414",
        "glm_10b",
    )
]
CASES += [
    (name, f"checkpoint_{kind}", {}, kind)
    for name in ("chatglm_6b", "chatglm2_6b", "chatglm3_6b")
    for kind in ("int8", "int4")
]
CASES += [
    (name, "checkpoint", {"adapter": str(GOLDEN / name / run)}, run)
    for name in ("chatglm_6b", "chatglm2_6b", "chatglm3_6b")
    for run in ("prefix", "prefix_projection")
]
CASES += [("glm_10b", folder, GLM10B, "native") for folder in ("checkpoint_native", "checkpoint_native_mp2")]
CASES += [
    ("glm_130b", folder, GLM130B, run)
    for folder, run in (("tp1", "fp32"), ("tp2", "fp32"), ("int8_tp1", "int8"), ("int4_tp1", "int4"))
]
CASES = [
    (name, f"checkpoint_{folder}" if name == "glm_130b" else folder, options, run)
    for name, folder, options, run in CASES
]
IDS = [f"{name}-{folder}-{run}" for name, folder, _, run in CASES]
RIGHT_PADDED = "glm_130b"  # the others pad on the left, and say so in a mask of their own


@functools.cache
def golden(name: str) -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / name / "golden.safetensors")


@functools.cache
def opened(name: str, folder: str, options: tuple = ()):
    return load_model(GOLDEN / name / folder, device="cpu", dtype="float32", **dict(options))


def prompts(name: str) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """{input: (ids, which are real)} of the runs whose positions and masks follow from the ids."""
    tensors, lengths = (
        golden(name),
        json.loads((GOLDEN / name / "golden.json").read_text(encoding="utf-8")).get("prompts", {}).get("batch", ()),
    )
    found = {}
    for key, ids in tensors.items():
        run, given, *thing = key.split(".")
        if (
            run != "fp32"
            or thing != ["input_ids"]
            or (name == "glm_10b" and f"fp32.{given}.prompt_attention_mask" not in tensors)
        ):
            continue
        real = torch.ones_like(ids, dtype=torch.bool)
        if name == "glm_10b":
            real[:, :-1] = tensors[f"fp32.{given}.prompt_attention_mask"].bool()
        elif given == "batch":
            index = torch.arange(ids.shape[1])
            real = torch.stack(
                [index < len(row) if name == RIGHT_PADDED else index >= ids.shape[1] - len(row) for row in lengths]
            )
        found[given] = ids, real
    return found


@pytest.mark.parametrize(("name", "folder", "options", "run"), CASES, ids=IDS)
def test_logits_and_greedy_tokens_are_those_of_the_original(name, folder, options, run):
    model, tensors, compared = opened(name, folder, tuple(options.items())), golden(name), 0
    for given, (ids, real) in prompts(name).items():
        expected = tensors.get(f"{run}.{given}.logits")
        if expected is not None:
            compared += 1
            torch.testing.assert_close(model.logits(ids, real)[real], expected.float()[real], rtol=0, atol=TOLERANCE)
        if (answer := tensors.get(f"{run}.gen.{given}.output_ids")) is not None:
            new = answer.shape[1] - ids.shape[1]
            assert torch.equal(generate(model, ids, new, real)[:, -new:], answer[:, -new:]), given
    assert compared


@pytest.mark.parametrize("name", dict.fromkeys(case[0] for case in CASES))
def test_positions_and_masks_are_those_of_the_original(name):
    config, tensors = (
        opened(*next((case[0], case[1], tuple(case[2].items())) for case in CASES if case[0] == name)).config,
        golden(name),
    )
    for given, (ids, real) in prompts(name).items():
        positions, mask = describe(ids, real, config)
        theirs, width = tensors[f"fp32.{given}.position_ids"], ids.shape[1]
        ours = positions.transpose(1, 2) if theirs.dim() == 3 else positions[:, 0]
        assert torch.equal(ours[real], (theirs[..., :width].transpose(1, 2) if theirs.dim() == 3 else theirs)[real]), (
            given
        )
        seen = tensors.get(f"fp32.{given}.generation_attention_mask")
        hidden = tensors.get(f"fp32.{given}.attention_mask")
        if seen is not None:
            assert torch.equal(mask[:, 0][real], seen[:, 0, :width, :width].bool()[real]), given
        elif hidden.dim() == 4:
            assert torch.equal(mask[:, 0][real], ~hidden[:, 0].expand(len(ids), width, width)[real]), given
        else:
            assert torch.equal(real, hidden.bool()), given
        if (steps := tensors.get(f"fp32.gen.{given}.decode.position_ids")) is not None:
            answer = tensors[f"fp32.gen.{given}.output_ids"]
            whole = torch.cat([real, torch.ones_like(answer[:, width:], dtype=torch.bool)], 1)
            later = describe(answer, whole, config)[0][:, :, width:-1]
            assert torch.equal(later if steps.dim() == 4 else later[:, 0], steps[..., 0].movedim(0, -1)), given


@pytest.mark.parametrize("name", ["chatglm_6b", "chatglm2_6b", "chatglm3_6b", "glm_130b"])
@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_published_codes_are_kept_as_they_are(name, kind):
    folder = f"checkpoint_{kind}" + ("_tp1" if name == "glm_130b" else "")
    model = opened(name, folder, tuple(GLM130B.items()) if name == "glm_130b" else ())
    layers = [
        module for module in model.blocks.modules() if hasattr(module, "bits") or isinstance(module, torch.nn.Linear)
    ]
    assert layers and all(
        isinstance(layer, QuantizedLinear) and layer.bits == int(kind[3:]) and layer.group == 0 for layer in layers
    )
    file = (
        next((GOLDEN / name / folder).rglob("*.pt"), None)
        or next((GOLDEN / name / folder).glob("*model.*s"), None)
        or GOLDEN / name / folder / "pytorch_model.bin"
    )
    held = load_file(file) if file.suffix == ".safetensors" else torch.load(file, weights_only=True)
    codes = next(t for key, t in held.get("module", held).items() if key.endswith("layers.1.mlp.dense_4h_to_h.weight"))
    assert torch.equal(model.blocks[1].ffn.down_proj.codes.view(torch.int8), codes)


def whole_pass(name: str, given: str, folder: str, options: dict) -> torch.Tensor:
    """Logits with the positions and the mask that the original made."""
    model, tensors = opened(name, folder, tuple(options.items())), golden(name)
    ids, positions, mask = (
        tensors[f"fp32.{given}.{thing}"] for thing in ("input_ids", "position_ids", "attention_mask")
    )
    if mask.dim() == 1:  # a separator a row: the columns before it are seen by all
        index = torch.arange(ids.shape[1])
        mask = ((index[None, :] < mask[:, None])[:, None] | (index[:, None] >= index))[:, None]
    return model.project(model(ids, positions, mask.bool()))


@pytest.mark.parametrize(
    "given", ["teacher_single", "teacher", "teacher_padding", "teacher_truncated", "multiple_choice"]
)
@torch.no_grad()
def test_glm_10b_answers_and_choices_that_are_given(given):
    tensors = golden("glm_10b")
    expected = tensors.get(f"fp32.{given}.logits", tensors.get(f"fp32.{given}.lm_logits"))
    seen = tensors[f"fp32.{given}.attention_mask"][:, 0].any(
        -1
    )  # a row that sees nothing is a uniform average there and undefined here
    torch.testing.assert_close(
        whole_pass("glm_10b", given, "checkpoint", {})[seen], expected[seen], rtol=0, atol=TOLERANCE
    )


@pytest.mark.parametrize(
    "given", ["spans_bert_padded_batch", "spans_gpt_padded_batch_both_forms", "spans_sentence_one"]
)
@torch.no_grad()
def test_glm_10b_training_rows(given):
    """Both originals: the released class (exact GELU) and the code that trained the weights (tanh)."""
    torch.testing.assert_close(
        whole_pass("glm_10b", given, "checkpoint", {}),
        golden("glm_10b")[f"fp32.{given}.logits"],
        rtol=0,
        atol=TOLERANCE,
    )
    native = golden("glm_10b").get(f"native.{given}.logits")
    if native is not None:
        torch.testing.assert_close(
            whole_pass("glm_10b", given, "checkpoint_native", GLM10B), native, rtol=0, atol=TOLERANCE
        )


def test_glm_10b_fills_one_blank_after_another():
    model, tensors = opened("glm_10b", "checkpoint_native", tuple(GLM10B.items())), golden("glm_10b")
    ids, tokens = tensors["native.multi_blank.prompt_input_ids"], tensors["native.multi_blank.tokens"]
    for span, expected in zip(tokens, tensors["native.multi_blank.step_logits"], strict=True):
        ids = torch.cat([ids, torch.tensor([[model.config.tokens.sop, *span.tolist()]])], 1)
        torch.testing.assert_close(model.logits(ids)[0, -len(expected) :], expected, rtol=0, atol=TOLERANCE)


def test_training_rows_have_the_mask_of_the_originals_separator():
    tensors = golden("glm_10b")
    positions, separators = (
        tensors["fp32.spans_bert_padded_batch.position_ids"],
        tensors["fp32.spans_bert_padded_batch.attention_mask"],
    )
    for row, separator in zip(positions[:, 1], separators, strict=True):
        length = int(row.nonzero().max()) + 1
        index = torch.arange(length)
        assert torch.equal(
            training_mask(torch.zeros(1, length), row[None, :length])[0, 0],
            (index[None] < separator) | (index[:, None] >= index),
        )
