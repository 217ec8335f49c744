"""The corpus on disk: what is written comes back, and damage is named in one line."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openglm.data.shards import Corpus, read_manifest, write_manifest, write_source

DOCUMENTS = [[5, 6, 7], [8], list(range(100, 140)), [9, 9], [1, 2, 3, 4]]


def make_corpus(folder, documents=DOCUMENTS, held=([11, 12],), vocab_size=512, shard_tokens=20):
    shards = write_source(folder, "a", "train", documents, vocab_size, shard_tokens)
    heldout = write_source(folder, "a", "heldout", held, vocab_size)
    empty = {"file": "a-heldout", "tokens": 0, "documents": 0, "sha256": ""}
    entry = {
        "name": "a",
        "language": "en",
        "licence": "",
        "bytes": 1,
        "tokens": sum(map(len, documents)),
        "documents": len(documents),
        "shards": shards,
        "heldout": {**(heldout or [empty])[0], "bytes": 1},
    }
    return write_manifest(folder, "fingerprint", vocab_size, [entry])


def one_line_error(call, *words):
    with pytest.raises(ValueError) as error:
        call()
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


@settings(max_examples=30, deadline=None)
@given(
    documents=st.lists(st.lists(st.integers(0, 511), max_size=12), min_size=1, max_size=20).filter(lambda d: any(d)),
    shard_tokens=st.integers(1, 40),
)
def test_documents_come_back_over_any_cut_into_shards(tmp_path_factory, documents, shard_tokens):
    folder = tmp_path_factory.mktemp("corpus")
    make_corpus(folder, documents, shard_tokens=shard_tokens)
    source = Corpus(folder, verify=True).sources["a"]
    assert [source.document(i).tolist() for i in range(len(source))] == documents
    assert source.lengths.tolist() == [len(d) for d in documents] and source.tokens == sum(map(len, documents))


def test_splits_and_names(tmp_path):
    manifest = make_corpus(tmp_path)
    train, held = Corpus(tmp_path), Corpus(tmp_path, "heldout")
    assert train.fingerprint == held.fingerprint == manifest["sha256"] and train.vocab_size == 512
    assert held.sources["a"].document(0).tolist() == [11, 12]
    assert len(list(tmp_path.glob("a-0*.tokens"))) == 2  # DOCUMENTS pass 20 tokens once


@pytest.mark.parametrize(("vocab_size", "width"), [(65535, 2), (65536, 4), (150528, 4)])
def test_ids_are_as_wide_as_the_vocabulary_needs(tmp_path, vocab_size, width):
    make_corpus(tmp_path, [[vocab_size - 1, 0]], vocab_size=vocab_size)
    assert (tmp_path / "a-00000.tokens").stat().st_size == 2 * width
    assert Corpus(tmp_path).sources["a"].document(0).tolist() == [vocab_size - 1, 0]


def test_reading_does_not_load_the_file(tmp_path):
    make_corpus(tmp_path)
    document = Corpus(tmp_path).sources["a"].document(2)
    assert isinstance(document, np.memmap) and not document.flags.writeable


def test_a_cut_shard_is_refused(tmp_path):
    make_corpus(tmp_path)
    path = tmp_path / "a-00000.tokens"
    path.write_bytes(path.read_bytes()[:-2])
    one_line_error(lambda: Corpus(tmp_path), "a-00000.tokens", "cut short")


def test_a_cut_index_is_refused(tmp_path):
    make_corpus(tmp_path)
    path = tmp_path / "a-00001.index"
    path.write_bytes(path.read_bytes()[:-8])
    one_line_error(lambda: Corpus(tmp_path), "a-00001.index", "cut short")


@pytest.mark.parametrize("name", ["a-00000.tokens", "a-00000.index"])
def test_a_flipped_byte_is_found_when_asked(tmp_path, name):
    make_corpus(tmp_path)
    raw = bytearray((tmp_path / name).read_bytes())
    raw[3] ^= 1
    (tmp_path / name).write_bytes(raw)
    Corpus(tmp_path)
    one_line_error(lambda: Corpus(tmp_path, verify=True), "a-00000.tokens", "damaged")


def test_a_missing_shard_folder_or_manifest(tmp_path):
    one_line_error(lambda: Corpus(tmp_path / "nowhere"), "nowhere", "no such folder")
    one_line_error(lambda: Corpus(tmp_path), "no manifest.json")
    make_corpus(tmp_path)
    (tmp_path / "a-00001.tokens").unlink()
    one_line_error(lambda: Corpus(tmp_path), "a-00001.tokens", "missing")


@pytest.mark.parametrize("text", ["", "[]", "{", '"manifest"'])
def test_what_is_no_manifest_is_refused(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    one_line_error(lambda: read_manifest(tmp_path), "manifest.json")


def test_an_edited_manifest_is_refused(tmp_path):
    manifest = make_corpus(tmp_path)
    manifest["vocab_size"] = 100
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    one_line_error(lambda: Corpus(tmp_path), "damaged")


def test_a_split_without_documents_is_refused(tmp_path):
    make_corpus(tmp_path, held=())
    Corpus(tmp_path)
    one_line_error(lambda: Corpus(tmp_path, "heldout"), "no heldout documents")
