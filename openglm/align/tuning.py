"""What `glm sft` does: a run on conversations, and what it gained and lost, side by side."""

import statistics
from functools import partial
from pathlib import Path

from openglm.align.abilities import abilities
from openglm.align.distill import distill
from openglm.align.online import fitting
from openglm.align.overlap import overlap, require_packages
from openglm.checkpoints.load import load_model
from openglm.checkpoints.native import resolve
from openglm.config import SFTConfig
from openglm.data.conversations import Conversation, conversation
from openglm.data.prompts import Prompt
from openglm.data.records import read_records
from openglm.engine.engine import Engine
from openglm.engine.params import SamplingParams
from openglm.files import write_json
from openglm.model.transformer import Transformer
from openglm.runtime import launched, say
from openglm.text.load import load_tokenizer
from openglm.text.render import parse_reply
from openglm.text.tokenizer import Tokenizer
from openglm.train.run import OnStep, Result
from openglm.train.sft import sft


def tune(config: SFTConfig, on_step: OnStep | None = None) -> Result:
    """Tune `config.init_from`, then measure it before and after, which OUT/before_after.json keeps.

    Raises ValueError in one line.
    """
    tokenizer = load_tokenizer(resolve(config.init_from))
    asked = held_out_answers(config, tokenizer) if config.answers else []
    result = (distill if config.teacher else sft)(config, on_step)
    if result.model is None or launched()[1]:
        return result
    measured = {}
    for when, tuned in (("before", None), ("after", result.model)):
        whole = tuned is not None and config.adapter == "none"
        model = load_model(
            tuned if tuned and whole else resolve(config.init_from),
            adapter=None if whole else tuned,
            device=config.train.device,
            quantize=None if config.quantize == "none" else config.quantize,
        )
        measured[when] = _measure(model, tokenizer, asked, config.train.seq_len // 2)
        del model
    write_json(Path(config.train.out) / "before_after.json", measured)
    pairs = [
        f"{name.replace('_', ' ')} {old:.3f} -> {measured['after'][name]:.3f}"
        for name, old in measured["before"].items()
    ]
    say(f"before -> after: {', '.join(pairs)}")
    return result


def held_out_answers(config: SFTConfig, tokenizer: Tokenizer) -> list[Prompt]:
    """`config.answers` of the held-out conversations, evenly chosen: all before the last answer, and it as `answer`."""
    require_packages()
    data, found = config.data, list[Prompt]()
    read = partial(conversation, fields=dict(pair.split("=", 1) for pair in data.fields))
    for file in data.heldout_dialogues.values():
        found += filter(None, map(_last_answer, read_records(file, read, "data.heldout_dialogues", data.skip_bad)))
    chosen = found[:: max(1, len(found) // config.answers)][: config.answers]
    return fitting(tokenizer, chosen, config.train.seq_len, config.train.seq_len // 2, "data.heldout_dialogues")


def _last_answer(read: Conversation) -> Prompt | None:
    messages, tools = read
    for number, message in reversed(list(enumerate(messages))):
        if number and message["role"] == "assistant" and str(message.get("content") or "").strip():
            return Prompt(messages[:number], tools, {"answer": message["content"]})
    return None


def _measure(model: Transformer, tokenizer: Tokenizer, asked: list[Prompt], most: int) -> dict[str, float]:
    engine = Engine(model, tokenizer=tokenizer)
    found = abilities(engine)
    if asked:
        ids = [tokenizer.render(one.messages, tools=one.tools, generation_prompt=True)[0] for one in asked]
        drawn = engine.generate(ids, SamplingParams(max_tokens=most))
        answers = [
            parse_reply(tokenizer, result.ids, one.tools or ())["content"]
            for one, result in zip(asked, drawn, strict=True)
        ]
        found |= overlap(answers, [one.known["answer"] for one in asked])
        found["ended"] = statistics.fmean(result.finish_reason == "stop" for result in drawn)
    return found
