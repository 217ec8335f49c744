"""A corpus of a few pages for dry runs: `python recipes/nano/tiny_corpus.py FOLDER`. The recipe's own pages, in nano's tokens."""

import sys
from pathlib import Path

from openglm.data.shards import write_manifest, write_source
from openglm.text.load import load_tokenizer

HERE = Path(__file__).parent

folder = Path(sys.argv[1])
tokenizer = load_tokenizer("nano")
tokenizer.save(folder)
pages = [path.read_text(encoding="utf-8") for path in sorted(HERE.glob("*.toml"))]
ids = tokenizer.encode_batch([page[at : at + 2000] for page in pages for at in range(0, min(len(page), 20_000), 2000)])
train = write_source(folder, "pages", "train", ids[1:], tokenizer.vocab_size)
held = write_source(folder, "pages", "heldout", ids[:1], tokenizer.vocab_size)
entry = {"name": "pages", "shards": train, "heldout": held[0]}
write_manifest(folder, tokenizer.fingerprint, tokenizer.vocab_size, [entry])
