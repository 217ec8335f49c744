"""Our side of lm-eval beside its own `hf` model, item by item, on one small random GlmForCausalLM."""

import json
import random

import pytest
import tokenizers
import torch
from helpers.live import Live
from helpers.tokenizer_files import huggingface_file, ranks_of
from transformers import GlmConfig, GlmForCausalLM, PreTrainedTokenizerFast

import openglm
from openglm.assistant import Assistant
from openglm.config import EngineConfig
from openglm.evaluation.models import EngineModel

lm_eval = pytest.importorskip("lm_eval")
from lm_eval.tasks import TaskManager  # noqa: E402

from openglm.evaluation.harness import HarnessModel  # noqa: E402

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "dog",
    "lay",
    "by",
    "door",
    "you",
    "today",
    "fine",
    "thank",
    "how",
    "are",
    "明月",
    "床前",
    "故乡",
    "你好",
]
KINDS = {
    "choices": {
        "output_type": "multiple_choice", "doc_to_text": "{{question}}\nAnswer:", "doc_to_choice": "{{options}}",
        "doc_to_target": "{{gold}}", "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "few_shots": {
        "output_type": "multiple_choice", "doc_to_text": "{{question}}\nAnswer:", "doc_to_choice": ["A", "B", "C"],
        "doc_to_target": "{{gold}}", "num_fewshot": 2, "fewshot_split": "test", "metric_list": [{"metric": "acc"}],
    },
    "contexts": {
        "output_type": "multiple_choice", "doc_to_text": "{{gold}}", "doc_to_choice": "{{options}}",
        "doc_to_target": "{{question}}", "metric_list": [{"metric": "acc"}],
    },
    "last_word": {
        "output_type": "loglikelihood", "doc_to_text": "{{question}} ", "doc_to_target": "{{options[0]}}",
        "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
    },
    "no_context": {
        "output_type": "loglikelihood", "doc_to_text": "", "doc_to_target": "{{question}}",
        "metric_list": [{"metric": "perplexity"}],
    },
    "whole_text": {
        "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{question}}",
        "metric_list": [{"metric": "byte_perplexity"}, {"metric": "bits_per_byte"}],
    },
    "written": {
        "output_type": "generate_until", "doc_to_text": "{{question}}\nAnswer:", "doc_to_target": "{{options[0]}}",
        "generation_kwargs": {"until": ["e", "\n\n"], "max_gen_toks": 12, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    },
}  # fmt: skip

ALONE = ("no_context", "whole_text")


@pytest.fixture(scope="module")
def pair(toy, tmp_path_factory):
    """The same weights as transformers' model and as ours, with their tokenizers."""
    folder = tmp_path_factory.mktemp("hf")
    ranks = ranks_of(openglm.load_tokenizer(toy))
    (folder / "tokenizer.json").write_bytes(huggingface_file(ranks))
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), eos_token="<|endoftext|>")
    tokenizer.pad_token = "<|endoftext|>"
    torch.manual_seed(5)
    shape = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, head_dim=8)
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("endoftext", "user", "observation")}
    config = GlmConfig(
        **shape, vocab_size=len(tokenizer), num_key_value_heads=2, max_position_embeddings=256,
        pad_token_id=ids["endoftext"], eos_token_id=list(ids.values()), initializer_range=0.2,
    )  # fmt: skip
    theirs = GlmForCausalLM(config).eval()
    theirs.save_pretrained(folder)
    return theirs, tokenizer, folder


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    folder, dice = tmp_path_factory.mktemp("items"), random.Random(7)

    def text(most):
        return " ".join(dice.choices(WORDS, k=dice.randint(2, most)))

    rows = [
        {"question": text(30), "options": [text(4) for _ in range(3)], "gold": dice.randrange(3)} for _ in range(12)
    ]
    (folder / "items.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(folder / "items.jsonl")}}}
    rows[0]["options"][0] = " " + rows[0]["options"][0]
    return {name: {"task": name, "test_split": "test", **data, **kind} for name, kind in KINDS.items()}


def samples(model, tasks):
    alone = TaskManager(include_defaults=False)  # else it reads 14,000 files
    found = lm_eval.simple_evaluate(model, tasks=[dict(task) for task in tasks], task_manager=alone, bootstrap_iters=0)
    return found["samples"], found["results"]


def hf(pair, **options):
    from lm_eval.models.huggingface import HFLM

    theirs, tokenizer, _ = pair
    return HFLM(pretrained=theirs, tokenizer=tokenizer, batch_size=1, device="cpu", max_length=256, **options)


def ours(pair, **options):
    model, tokenizer = openglm.load_model(pair[2], dtype="float32", device="cpu"), openglm.load_tokenizer(pair[2])
    return EngineModel(openglm.Engine(model, EngineConfig(**options), tokenizer=tokenizer))


def test_every_kind_of_task_agrees_with_lm_evals_own_hf_model(pair, tasks):
    """But where nothing stands before a text, with [gMASK] <sop> in front of every text: the rule of the family."""
    start = tokenizers.processors.TemplateProcessing(
        single="[gMASK] <sop> $A", special_tokens=[(n, pair[1].convert_tokens_to_ids(n)) for n in ("[gMASK]", "<sop>")]
    )
    pair[1].backend_tokenizer.post_processor = start
    asked = [task for name, task in tasks.items() if name not in ALONE]
    theirs, their_scores = samples(hf(pair, add_bos_token=True), asked)
    mine, my_scores = samples(HarnessModel(ours(pair)), asked)
    _same(mine, theirs)
    for name in mine:
        for metric, value in their_scores[name].items():
            if isinstance(value, float):
                assert my_scores[name][metric] == pytest.approx(value, rel=1e-4), (name, metric)


def test_texts_with_nothing_before_them_agree_with_the_same_token_in_front(pair, tasks):
    sop = pair[1].convert_tokens_to_ids("<sop>")
    pair[1].backend_tokenizer.post_processor = None
    asked = [tasks[name] for name in ALONE]
    theirs, _ = samples(hf(pair, add_bos_token=False, prefix_token_id=sop), asked)
    model = ours(pair)
    model.filler.start = [sop]
    mine, _ = samples(HarnessModel(model), asked)
    _same(mine, theirs)


def _same(mine, theirs):
    assert mine.keys() == theirs.keys()
    for name, items in mine.items():
        assert len(items) == len(theirs[name]) == 12
        for one, other in zip(items, theirs[name], strict=True):
            assert one["doc"] == other["doc"]
            for answer, expected in zip(one["resps"], other["resps"], strict=True):
                _alike(name, answer[0], expected[0])


def _alike(name, answer, expected):
    if isinstance(expected, str):
        assert answer == expected, name
    elif isinstance(expected, tuple | list):
        assert answer[0] == pytest.approx(float(expected[0]), abs=1e-4) and answer[1] == bool(expected[1]), name
    else:
        assert answer == pytest.approx(expected, abs=1e-4), name


def test_lm_eval_gets_the_same_from_our_server_by_its_local_completions(pair, tasks, tmp_path):
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    pair[1].backend_tokenizer.post_processor = None
    pair[1].save_pretrained(tmp_path)
    server = Live(Assistant(pair[2], device="cpu"))
    try:
        theirs = LocalCompletionsAPI(
            base_url=f"{server.url}/v1/completions", model="toy", tokenizer=str(tmp_path), max_length=250, batch_size=4
        )  # fmt: skip
        asked = [tasks[name] for name in ("choices", "few_shots", "contexts", "last_word")]
        over_http, _ = samples(theirs, asked)
    finally:
        server.stop()
    mine, _ = samples(HarnessModel(ours(pair)), asked)
    _same(over_http, mine)
