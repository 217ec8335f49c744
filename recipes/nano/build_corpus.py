"""nano's corpus from its packages: `python recipes/nano/build_corpus.py --out DIR`. As `glm data build`, with this recipe's own readers."""

from __future__ import annotations

from pathlib import Path

from corpus_readers import READERS

from openglm.data.build import build, table

SOURCES = Path(__file__).with_name("sources.toml")


def main(out: str, text: str = "", cache: str = "", tokenizer: str = "", workers: int = 1) -> None:
    """Fetch, clean, remove duplicates and evaluation items, hold out a part, tokenize.

    Args:
        out: folder of the corpus; must not exist yet
        text: also keep the cleaned text in this folder, one .jsonl a source
        cache: where downloaded packages are kept; empty: the user's cache folder
        tokenizer: folder or name of a tokenizer to use; empty: train one
        workers: processes
    """
    print(table(build(SOURCES, out, readers=READERS, text=text, cache=cache, tokenizer=tokenizer, workers=workers)))


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
