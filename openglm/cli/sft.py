"""`glm sft`: tune a model on conversations, or show what would be learnt."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

import tyro

from openglm.cli.options import parse
from openglm.cli.pretrain import open_train, report
from openglm.config import DataConfig, SFTConfig, TrainConfig


@dataclass(frozen=True, kw_only=True)
class SFTOptions(SFTConfig):
    show: int = 0
    """check all data and print so many conversations, with the trained parts marked, without training"""
    json: bool = False
    """with --show: print them as JSON"""


def run(argv: list[str]) -> int:
    shows = any(word.partition("=")[0] == "--show" for word in argv)
    train = TrainConfig(out="none", steps=1) if shows else open_train()
    default = SFTOptions(init_from=tyro.MISSING, train=train, data=DataConfig())
    about = (
        "Tune a model on conversations (--data.dialogues NAME FILE); only the assistant's words are trained. The same"
        " command resumes a run."
    )
    options = parse(SFTOptions, argv, "glm sft", about, default)
    config = SFTConfig(**{field.name: getattr(options, field.name) for field in dataclasses.fields(SFTConfig)})
    from openglm.align.tuning import tune
    from openglm.train.sft import examples

    if not options.show:
        return report(tune(config))
    shown = examples(config, options.show)
    if options.json:
        print(json.dumps({"examples": shown}, ensure_ascii=False))
        return 0
    for number, parts in enumerate(shown, 1):
        print(f"--- example {number}; trained: what stands between \u27e6 and \u27e7")
        print("".join(f"\u27e6{text}\u27e7" if trained else text for text, trained in parts))
    return 0
