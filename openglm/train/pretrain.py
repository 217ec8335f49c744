"""Pre-training by blank infilling: puts corpus, tokenizer and rows together and hands them to the loop."""

import dataclasses
from collections.abc import Mapping
from typing import Protocol

from openglm.checkpoints.native import resolve
from openglm.config import DataConfig, InfillingConfig, ModelConfig, PretrainConfig, require
from openglm.data.dialogue import DialogueSource
from openglm.data.mixture import Mixture
from openglm.data.shards import Corpus, is_corpus
from openglm.data.texts import Texts, read_corpus
from openglm.parallel.processes import shape
from openglm.runtime import launched, say
from openglm.text.load import load_tokenizer
from openglm.text.tokenizer import Tokenizer
from openglm.train.loop import train
from openglm.train.run import OnStep, Result, Run


class Counted(Protocol):
    """A source of rows."""

    tokens: int


def pretrain(config: PretrainConfig, on_step: OnStep | None = None) -> Result:
    """Train from random weights, or from those of `config.init_from`, in `config.train.out`; the same call resumes.

    Raises ValueError in one line.
    """
    shape(config.parallel, launched()[0])  # before texts are read, which takes a while
    require(
        bool(config.data.path), "data.path", config.data.path, "give the folder of a corpus; `glm data build` makes one"
    )
    start = resolve(config.init_from) if config.init_from else None
    tokenizer = load_tokenizer(start or config.data.path)
    model = config.model if start else fit_to_tokenizer(config.model, tokenizer)
    rows, heldout = make_rows(config.data, config.infilling, model, tokenizer, config.train.seq_len)
    run = Run(
        config=config,
        model=model,
        rows=rows,
        heldout=heldout,
        tokenizer=tokenizer,
        init_from=str(start) if start else None,
        workers=config.data.workers,
        on_step=on_step,
    )
    return train(run)


def fit_to_tokenizer(model: ModelConfig, tokenizer: Tokenizer) -> ModelConfig:
    """The same shape with the tokenizer's vocabulary and special tokens."""
    return dataclasses.replace(model, vocab_size=tokenizer.vocab_size, tokens=tokenizer.tokens)


def make_rows(
    data: DataConfig,
    infilling: InfillingConfig,
    model: ModelConfig,
    tokenizer: Tokenizer,
    seq_len: int,
    replay: tuple[str, float] = ("", 0.0),
) -> tuple[Mixture, dict[str, Mixture]]:
    """The training rows, and the held-out rows of each source that has some. replay: plain text, and its share."""

    def mixture(
        corpus: Corpus | Texts | None, dialogues: dict[str, DialogueSource], weights: dict[str, float]
    ) -> Mixture:
        chosen = dataclasses.replace(data, weights=weights)
        return Mixture(
            corpus, chosen, infilling, model.tokens, seq_len, model.span_positions, tokenizer.sentence_ends, dialogues
        )

    texts = _texts(data.path, "data.path", tokenizer) if data.path else None
    weights = data.weights
    dialogues = read_dialogues(data, data.dialogues, model, tokenizer, seq_len)
    if replay[0]:
        alone = texts is None and not weights
        require(alone, "replay", replay[0], "brings the plain text; leave data.path and data.weights out")
        texts = _texts(replay[0], "replay", tokenizer)
        weights = replay_weights(replay[1], texts.sources, dialogues)
    rows = mixture(texts, dialogues, weights)
    kept_out = read_dialogues(data, data.heldout_dialogues, model, tokenizer, seq_len)
    heldout = {name: mixture(None, {name: source}, {name: 1.0}) for name, source in kept_out.items()}
    if isinstance(texts, Corpus) and any(entry["heldout"]["documents"] for entry in texts.manifest["sources"]):
        kept = Corpus(texts.folder, "heldout")
        heldout |= {name: mixture(kept, {}, {name: 1.0}) for name in kept.sources if name in rows.names}
    return rows, heldout


def _texts(path: str, option: str, tokenizer: Tokenizer) -> Corpus | Texts:
    """Plain text to train on: a corpus, or for replay a user's files."""
    if is_corpus(path) or option != "replay":
        return read_corpus(path, option, tokenizer)
    texts = Texts(path, tokenizer, option)
    say(texts.summary)
    return texts


def replay_weights(share: float, texts: Mapping[str, Counted], dialogues: Mapping[str, Counted]) -> dict[str, float]:
    """Weights with which so many rows are plain text; within texts and within conversations in proportion to tokens."""
    weights: dict[str, float] = {}
    for part, sources in ((share, texts), (1 - share, dialogues)):
        total = sum(source.tokens for source in sources.values())
        weights |= {name: part * source.tokens / total for name, source in sources.items()}
    return weights


def read_dialogues(
    data: DataConfig, files: Mapping[str, str], model: ModelConfig, tokenizer: Tokenizer, seq_len: int
) -> dict[str, DialogueSource]:
    """Sources of conversations by name; says what was read. Raises ValueError that holds the faults of all files."""
    fields = dict(pair.split("=", 1) for pair in data.fields)
    sources: dict[str, DialogueSource] = {}
    faults = []
    for name, path in files.items():
        try:
            sources[name] = DialogueSource(
                path,
                tokenizer,
                model.tokens,
                seq_len,
                model.span_positions,
                data.seed,
                fields=fields,
                skip_bad=data.skip_bad,
            )
        except ValueError as error:
            faults.append(str(error))
        else:
            for line in filter(None, (sources[name].summary, sources[name].warning)):
                say(line)
    if faults:
        raise ValueError("; ".join(faults))
    return sources
