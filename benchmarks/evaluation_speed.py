"""Questions a second of processor time, of our engine and of lm-eval's own `hf` model on the same weights, in turn, one
thread each; other questions in every round, so that nothing is found in a cache. `gap`: by how much they differ.

python benchmarks/evaluation_speed.py --questions 24 --rounds 3
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import GlmConfig, GlmForCausalLM, PreTrainedTokenizerFast

import openglm
from openglm.evaluation.harness import HarnessModel
from openglm.evaluation.models import EngineModel
from openglm.evaluation.packages import items_folder
from openglm.evaluation.tasks import TASKS, find


def models(folder: Path, size: int) -> tuple[HFLM, HarnessModel]:
    """Random weights of a small GLM-4 (8 blocks, 256 wide), for both."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from tokenizers.processors import TemplateProcessing

    alphabet = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    names = ["<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>"]
    tokenizer.add_special_tokens([*names, "<|assistant|>", "<|observation|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    ids = {name: tokenizer.token_to_id(name) for name in ("[gMASK]", "<sop>")}
    start = TemplateProcessing(single="[gMASK] <sop> $A", special_tokens=[*ids.items()])
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), eos_token="<|endoftext|>")
    theirs.backend_tokenizer.post_processor = start
    theirs.pad_token = "<|endoftext|>"
    torch.manual_seed(1)
    config = GlmConfig(
        vocab_size=len(theirs), hidden_size=256, intermediate_size=704, num_hidden_layers=8, num_attention_heads=4,
        num_key_value_heads=2, head_dim=64, max_position_embeddings=4096, eos_token_id=[theirs.eos_token_id],
        pad_token_id=theirs.eos_token_id,
    )  # fmt: skip
    network = GlmForCausalLM(config).eval()
    network.save_pretrained(folder)
    ours = openglm.load_model(folder, dtype="float32", device="cpu")
    engine = openglm.Engine(ours, tokenizer=openglm.load_tokenizer(folder))
    hf = HFLM(pretrained=network, tokenizer=theirs, batch_size=size, device="cpu", max_length=4096, add_bos_token=True)
    return hf, HarnessModel(EngineModel(engine))


def requests(task: str, start: int, count: int) -> list[Instance]:
    items = find(TASKS[task], items_folder())[0][start : start + count]
    asked = [(TASKS[task].ask(item), answer) for item in items for answer in TASKS[task].answers(item)]
    return [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(asked)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8, help="requests of a batch of lm-eval's model")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        hf, ours = models(Path(folder), options.batch)
        for task in ("mmlu", "commonsenseqa", "boolq"):
            ratios = []
            for number in range(options.rounds):
                asked = requests(task, number * options.questions, options.questions)
                seconds, scores = [], []
                for model in (hf, ours):
                    start = time.process_time()
                    scores.append(model.loglikelihood(asked))
                    seconds.append(time.process_time() - start)
                ratios.append(seconds[0] / seconds[1])
            gap = max(abs(float(a[0]) - b[0]) for a, b in zip(*scores, strict=True))
            rates = [options.questions / one for one in seconds]
            told = {"task": task, "hf": rates[0], "ours": rates[1], "ratio": statistics.median(ratios), "gap": gap}
            print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
