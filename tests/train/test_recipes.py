"""From a corpus folder to a model folder, and from that and conversations to a tuned one."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from helpers.tiny_runs import options

import openglm
from openglm.config import DataConfig, InfillingConfig, ModelConfig, OptimizerConfig, PretrainConfig, SFTConfig
from openglm.data.shards import write_manifest, write_source
from openglm.text.bpe_training import train_tokenizer
from openglm.text.load import load_tokenizer
from openglm.train.pretrain import pretrain
from openglm.train.sft import sft

SHAPE = ModelConfig(vocab_size=1, layers=1, hidden=16, heads=2, ffn_hidden=32, max_positions=48)
ANIMALS = ("red fox", "grey cat", "black dog")
TEXTS = [
    f"Line {i}: the {ANIMALS[i % 3]} sat on mat {i * i}. It was {'late' if i % 2 else 'early'}." for i in range(60)
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    tokenizer = train_tokenizer(TEXTS, 300, folder)
    sources = []
    for name, texts in {"odd": TEXTS[::2], "even": TEXTS[1::2]}.items():
        ids = [np.array(tokenizer.encode(text)) for text in texts]
        shards, heldout = (
            write_source(folder, name, split, part, 300) for split, part in (("train", ids[3:]), ("heldout", ids[:3]))
        )
        sources.append({"name": name, "shards": shards, "heldout": heldout[0]})
    write_manifest(folder, tokenizer.fingerprint, 300, sources)
    return folder


@pytest.fixture(scope="module")
def base(corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("base")
    train = options(out, seq_len=48, sample_every=6, ema=0.5)
    data = DataConfig(path=str(corpus), weights={"odd": 3.0, "even": 1.0}, workers=1)
    return pretrain(
        PretrainConfig(
            train=train,
            data=data,
            model=SHAPE,
            infilling=InfillingConfig(mask_share=0.5, sentence_share=0.2, gmask_share=0.3),
        )
    )


@pytest.fixture
def conversations(tmp_path):
    path = tmp_path / "chat.jsonl"
    path.write_text(
        "".join(
            json.dumps(
                {"messages": [{"role": "user", "content": f"say {i}"}, {"role": "assistant", "content": f"{i}"}]}
            )
            + "\n"
            for i in range(30)
        )
    )
    return path


def test_pretraining_makes_a_model_that_the_package_loads(base, corpus):
    assert base.finished and base.heldout.keys() == {"odd", "even"}
    model, tokenizer = openglm.load_model(base.model, device="cpu"), openglm.load_tokenizer(base.model)
    assert tokenizer.fingerprint == load_tokenizer(corpus).fingerprint
    assert (model.config.vocab_size, model.config.tokens.gmask, model.config.tokens.stop) == (300, 2, (5, 7, 9))
    ids = openglm.generate(model, torch.tensor([[2, 4]]), 4)
    assert ids.shape == (1, 6)
    settings = json.loads((base.model.parent / "config.json").read_text())
    assert settings["data"]["weights"] == {"odd": 3.0, "even": 1.0} and settings["model"]["layers"] == 1


def test_tuning_goes_on_from_it(base, conversations, tmp_path):
    data = DataConfig(dialogues={"chat": str(conversations)}, heldout_dialogues={"kept": str(conversations)}, workers=0)
    result = sft(
        SFTConfig(
            init_from=str(base.model),
            train=options(tmp_path / "run", seq_len=48, steps=30, sample_every=15),
            data=data,
            optimizer=OptimizerConfig(lr=3e-2),
        )
    )
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    heldout = [line["heldout"]["kept"] for line in lines if "heldout" in line]
    assert result.finished and heldout[-1] < heldout[0]
    assert openglm.load_tokenizer(result.model).fingerprint == openglm.load_tokenizer(base.model).fingerprint


def test_text_may_be_mixed_between_the_conversations(base, corpus, conversations, tmp_path):
    data = DataConfig(path=str(corpus), dialogues={"chat": str(conversations)}, workers=0)
    assert sft(
        SFTConfig(init_from=str(base.model), train=options(tmp_path / "run", seq_len=48), data=data)
    ).heldout.keys() == {
        "odd",
        "even",
    }


def test_a_corpus_of_another_tokenizer_is_refused(base, conversations, tmp_path):
    tokenizer = train_tokenizer(TEXTS, 295, tmp_path / "other")
    heldout = {"documents": 0}
    write_manifest(
        tmp_path / "other",
        tokenizer.fingerprint,
        280,
        [{"name": "a", "shards": write_source(tmp_path / "other", "a", "train", [[20, 21]], 280), "heldout": heldout}],
    )
    data = DataConfig(path=str(tmp_path / "other"), dialogues={"chat": str(conversations)})
    with pytest.raises(ValueError, match=r"^data.path = .*another tokenizer"):
        sft(SFTConfig(init_from=str(base.model), train=options(tmp_path / "run", seq_len=48), data=data))


@pytest.mark.parametrize(
    "change, named",
    [
        ({"path": ""}, "data.path"),
        ({"path": "/nowhere"}, "/nowhere"),
        ({"weights": {"lost": 1.0}}, "data.weights.lost"),
    ],
)
def test_pretraining_names_what_is_wrong(corpus, tmp_path, change, named):
    data = dataclasses.replace(DataConfig(path=str(corpus)), **change)
    with pytest.raises(ValueError, match=named):
        pretrain(PretrainConfig(train=options(tmp_path), data=data, model=SHAPE))


def test_rows_longer_than_the_context_are_refused(corpus, tmp_path):
    with pytest.raises(ValueError, match=r"train.seq_len = 49"):
        pretrain(PretrainConfig(train=options(tmp_path, seq_len=49), data=DataConfig(path=str(corpus)), model=SHAPE))
