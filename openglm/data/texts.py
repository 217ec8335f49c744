"""Plain text to train on: a corpus, or a user's files in memory as one: cut into tokens, nothing else done to it."""

import hashlib
from pathlib import Path

import numpy as np

from openglm.config import require
from openglm.data.readers import own_files, own_texts
from openglm.data.shards import Corpus, Source, encode_in_batches
from openglm.text.tokenizer import Tokenizer


def read_corpus(path: str, option: str, tokenizer: Tokenizer) -> Corpus:
    """A corpus that this tokenizer cut. Raises ValueError naming the option where another did."""
    corpus = Corpus(path)
    same = corpus.manifest["tokenizer"] == tokenizer.fingerprint
    other = "its tokens were made with another tokenizer than the model's; build it again with that one"
    require(same, option, path, other)
    return corpus


class Texts:
    """What `shards.Corpus` is for a corpus folder, with one source and no held-out text.

    path: a file or a folder of texts. Raises ValueError with the name of the `option` where there is none.
    """

    def __init__(self, path: str | Path, tokenizer: Tokenizer, option: str) -> None:
        texts = (text for file in own_files(path, option) for text in own_texts(file))
        documents = [ids for ids in encode_in_batches(tokenizer, texts) if ids]
        require(bool(documents), option, str(path), "no text in it")
        ids = np.concatenate([np.array(document, np.int32) for document in documents])
        ends = np.cumsum([len(document) for document in documents])
        self.sources = {option: Source(option, [(ids, ends)])}
        self.fingerprint = hashlib.sha256(ids.tobytes() + ends.tobytes()).hexdigest()
        self.summary = f"{path}: {len(documents)} texts, {len(ids)} tokens"
