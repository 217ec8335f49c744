"""Building a corpus from a user's own folder, with every step that the nano recipe takes; no downloads."""

import contextlib
import gzip
import io
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from openglm.cli.main import main
from openglm.data import clean, readers, sources
from openglm.data.shards import Corpus
from openglm.text.load import load_tokenizer

build = pytest.importorskip("openglm.data.build").build
table = pytest.importorskip("openglm.data.build").table

SMALL = {"vocab_size": 600, "shown": False, "heldout": 0.1}
WORDS = [
    "river",
    "mountain",
    "teacher",
    "window",
    "garden",
    "letter",
    "music",
    "winter",
    "market",
    "bridge",
    "captain",
    "forest",
    "summer",
    "kitchen",
    "paper",
    "station",
]
HAN = "春夏秋冬山水风云花鸟鱼虫天地人和日月星辰江河湖海东西南北金木火土"
PLANTED_ITEM = "which of these thirteen planted words would never appear together by chance in ordinary training text"


def sentences(rng: random.Random, count: int) -> list[str]:
    english = (" ".join(rng.choices(WORDS, k=rng.randint(8, 14))) + "." for _ in range(count - count // 2))
    chinese = ("".join(rng.choices(HAN, k=rng.randint(12, 30))) + "。" for _ in range(count // 2))
    return [*english, *chinese]


def write_folder(folder, documents):
    """A third of the documents in each kind of file."""
    folder.mkdir()
    third = len(documents) // 3
    for i, text in enumerate(documents[:third]):
        (folder / f"{i:03d}.txt").write_text(text, encoding="utf-8")
    (folder / "b.jsonl").write_text(
        "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in documents[third : 2 * third]),
        encoding="utf-8",
    )
    pyarrow.parquet.write_table(pyarrow.table({"text": documents[2 * third :]}), folder / "c.parquet")
    return folder


def texts(folder, split="train"):
    tokenizer, corpus = load_tokenizer(folder), Corpus(folder, split, verify=True)
    return {
        name: [tokenizer.decode(source.document(i)) for i in range(len(source))]
        for name, source in corpus.sources.items()
    }


def one_line_error(call, *words):
    with pytest.raises(ValueError) as error:
        call()
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """One build over 120 documents with a planted exact duplicate, a near one, a contaminated line and a folder of its own."""
    root, rng = tmp_path_factory.mktemp("build"), random.Random(1)
    documents = ["\n".join(sentences(rng, 6)) for _ in range(120)]
    near = documents[3].replace("。", "！").replace(".", "") + "\nwinter"
    dirty = f"{documents[5]}\nthe exam asks: {PLANTED_ITEM}?\nbut this line may stay for it is clean"
    folder = write_folder(root / "own", [*documents, documents[7], near, dirty])
    (folder / "letters").mkdir()
    (folder / "letters" / "a.txt").write_text("\n".join(sentences(rng, 6)), encoding="utf-8")
    items = root / "items"
    items.mkdir()
    (items / "exam.jsonl").write_text(
        json.dumps({"question": {"text": PLANTED_ITEM.upper() + "?"}, "options": ["yes", "no"]}) + "\n"
    )
    manifest = build(folder, root / "corpus", evaluation=items, text=root / "clean", **SMALL)
    return root, folder, documents, near, manifest


def test_a_folder_becomes_a_corpus(built):
    root, _, documents, _, manifest = built
    train, held = texts(root / "corpus"), texts(root / "corpus", "heldout")
    kept = train["own"] + held["own"]
    assert set(documents) - {documents[3], documents[5]} <= set(kept) and set(train) == {"own", "letters"}
    saved = json.loads((root / "corpus" / "manifest.json").read_text())
    left_out = {"exact copies": 1, "near copies": 2, "lines of evaluation items": 1}
    assert manifest == {**saved, "read": 124, "left_out": left_out} and manifest["vocab_size"] == 600
    for entry in manifest["sources"]:
        assert entry["tokens"] == Corpus(root / "corpus").sources[entry["name"]].tokens
        assert entry["bytes"] == sum(len(text.encode()) for text in train[entry["name"]])


def test_the_cleaned_text_is_kept_on_request(built):
    root, *_ = built
    for split, suffix in (("train", ""), ("heldout", "-heldout")):
        lines = (root / "clean" / f"own{suffix}.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line)["text"] for line in lines] == texts(root / "corpus", split)["own"]


def test_held_out_documents_are_not_trained_on(built):
    root, *_ = built
    train, held = texts(root / "corpus")["own"], texts(root / "corpus", "heldout")["own"]
    assert 1 <= len(held) <= 36 and not set(train) & set(held)  # a tenth of 121, within six standard deviations


def test_exact_and_near_duplicates_are_dropped(built):
    root, _, documents, near, _ = built
    kept = texts(root / "corpus")["own"] + texts(root / "corpus", "heldout")["own"]
    assert kept.count(documents[7]) == 1
    assert [documents[3] in kept, near in kept].count(True) == 1


def test_only_the_contaminated_line_goes(built):
    root, _, documents, _, _ = built
    kept = texts(root / "corpus")["own"] + texts(root / "corpus", "heldout")["own"]
    assert not any("thirteen planted" in text for text in kept)
    clean_part = f"{documents[5]}\nbut this line may stay for it is clean"
    assert [documents[5] in kept, clean_part in kept].count(True) == 1  # near duplicates of each other


def test_the_same_files_give_the_same_corpus_on_any_number_of_processes(built):
    root, folder, _, _, manifest = built
    again = build(folder, root / "again", evaluation=root / "items", workers=2, **SMALL)
    assert again["sha256"] == manifest["sha256"]
    assert not list(root.glob("*.work*"))


def test_a_given_tokenizer_is_used(built):
    root, folder, _, _, manifest = built
    other = build(folder / "letters", root / "other", tokenizer=str(root / "corpus"), shown=False)
    assert other["tokenizer"] == manifest["tokenizer"] and other["vocab_size"] == 600


def test_an_interrupted_build_goes_on(built, monkeypatch):
    root, folder, _, _, manifest = built
    module = pytest.importorskip("openglm.data.build")
    run, names = module.run_locally, []

    def break_off(stage, log, workers, done):
        names.append(stage.name)
        if stage.name == "comparing hashes" and names.count(stage.name) == 1:
            raise KeyboardInterrupt
        run(stage, log, workers, done)

    monkeypatch.setattr(module, "run_locally", break_off)
    reads = []
    read = module.steps.unit_texts
    monkeypatch.setattr(module.steps, "unit_texts", lambda *given: reads.append(given) or read(*given))
    with pytest.raises(KeyboardInterrupt):
        build(folder, root / "resumed", evaluation=root / "items", **SMALL)
    first = len(reads)
    assert first and not (root / "resumed").exists()
    assert build(folder, root / "resumed", evaluation=root / "items", **SMALL)["sha256"] == manifest["sha256"]
    assert len(reads) == first  # nothing was read again


def test_wrong_folders_and_files_are_named(tmp_path):
    one_line_error(lambda: build(tmp_path / "none", tmp_path / "out", **SMALL), "none", "no such folder")
    (tmp_path / "empty").mkdir()
    one_line_error(
        lambda: build(tmp_path / "empty", tmp_path / "out", **SMALL), "empty", "no .txt, ", ".jsonl", ".parquet"
    )
    one_line_error(lambda: build(tmp_path / "empty", tmp_path, **SMALL), "out", "exists already")
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "a.txt").write_bytes("好".encode() + b"abc\xff\xfe")
    one_line_error(lambda: build(bad, tmp_path / "out", **SMALL), "a.txt", "not UTF-8 at byte 6")
    (tmp_path / "own-heldout").mkdir()
    (tmp_path / "own-heldout" / "a.txt").write_text("some text")
    one_line_error(
        lambda: build(tmp_path / "own-heldout", tmp_path / "out", **SMALL), "own-heldout", "choose another name"
    )
    (bad / "a.txt").write_bytes(b"- = +\n")
    one_line_error(lambda: build(bad, tmp_path / "out", **SMALL), "no text is left")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"text": "fine"}\n\xff\n', ("line 2", "not UTF-8")),
        (b'{"text": "fine"}\n{"body": 1}\n', ("line 2", '"text"')),
        (b'{"text": "fine"}\nfine\n', ("line 2", "JSON")),
        (b'{"text": ["a"]}\n', ("line 1", "string")),
    ],
)
def test_wrong_lines_of_jsonl_are_named(tmp_path, line, words):
    (tmp_path / "a.jsonl").write_bytes(line)
    one_line_error(lambda: list(readers.own_records(tmp_path / "a.jsonl")), "a.jsonl", *words)


def test_wrong_parquet_files_are_named(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"body": ["a"]}), tmp_path / "a.parquet")
    one_line_error(lambda: list(readers.own_parquet(tmp_path / "a.parquet")), "a.parquet", 'no column "text"', "body")
    for values in ([["a", "b"]], [{"a": 1}], [b"bytes"], [1]):
        pyarrow.parquet.write_table(pyarrow.table({"text": values}), tmp_path / "a.parquet")
        one_line_error(
            lambda: list(readers.own_parquet(tmp_path / "a.parquet")), "a.parquet", '"text" holds', "not text"
        )
    (tmp_path / "b.parquet").write_bytes(b"PAR1 not really")
    one_line_error(lambda: list(readers.own_parquet(tmp_path / "b.parquet")), "b.parquet", "damaged")


PROSE = {
    name: f"The {name} {first} and the {name} {second} of one house.\n{{\n}}\n\u2026\u2026\n-----\nThey are {name}."
    for name, first, second in (
        ("black", "cat", "dog"),
        ("old", "clock", "table"),
        ("wooden", "door", "gate"),
        ("green", "apple", "lawn"),
        ("little", "sister", "brother"),
        ("cold", "winter", "water"),
    )
}


def test_every_kind_of_file_is_read_and_the_rest_is_named(tmp_path, capsys):
    folder = tmp_path / "mine"
    (folder / ".ipynb_checkpoints").mkdir(parents=True)
    (folder / ".ipynb_checkpoints" / "a.txt").write_text("a copy that must not be read")
    (folder / "a.TXT").write_text(PROSE["black"])
    (folder / "b.md").write_text(PROSE["old"])
    (folder / "c.txt.gz").write_bytes(gzip.compress(PROSE["wooden"].encode()))
    (folder / "d.JSONL").write_text(json.dumps({"text": PROSE["green"]}))
    (folder / "e.json").write_text(json.dumps([{"text": PROSE["little"]}, {"text": "x"}, {"text": PROSE["old"]}]))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "f.txt").write_text(PROSE["cold"])
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "paper.pdf").write_text("x")
    manifest = build(folder, tmp_path / "out", text=tmp_path / "text", heldout=0, vocab_size=512, shown=False)
    assert {source["name"] for source in manifest["sources"]} == {"mine", "linked"}
    lines = [line for path in (tmp_path / "text").glob("*.jsonl") for line in path.read_text().split("\n") if line]
    kept = [json.loads(line)["text"] for line in lines]
    assert sorted(kept) == sorted(text.replace("-----\n", "") for text in PROSE.values()), "lone braces stay"
    assert "not read: 1 .pdf (paper.pdf); 1 hidden (.ipynb_checkpoints)" in capsys.readouterr().err
    expected = {"too short or unreadable documents": 1, "exact copies": 1, "lines of rulers or lost bytes": 7}
    assert (manifest["read"], manifest["left_out"]) == (8, expected)
    assert "8 documents read; left out: 1 too short" in table(manifest)


def test_two_poems_under_names_in_gbk_are_built_and_pretrained_on(tmp_path, capsys):
    """Names that are not UTF-8 reach the tables and the manifest as text, and 30 tokens are enough for a first run."""
    folder = os.fsencode(tmp_path / "texts")
    poems = os.path.join(folder, "古诗".encode("gbk"))
    try:
        os.makedirs(poems)
    except OSError:
        pytest.skip("this file system takes names in UTF-8 alone")
    for name, text in (("静夜思.txt", "床前明月光，疑是地上霜。"), ("春晓.TXT", "春眠不觉晓，处处闻啼鸟。")):
        Path(os.fsdecode(os.path.join(poems, name.encode("gbk")))).write_text(text, encoding="utf-8")
    Path(os.fsdecode(os.path.join(folder, "笔记.docx".encode("gbk")))).write_text("x")
    corpus, run = str(tmp_path / "corpus"), str(tmp_path / "run")
    assert main(["data", "build", os.fsdecode(folder), "--out", corpus]) == 0
    said = capsys.readouterr()
    assert "古诗" in said.out and "1 .docx (笔记.docx)" in said.err and "instead of 8,192" in said.err
    assert [source["name"] for source in Corpus(corpus).manifest["sources"]] == ["古诗"]
    small = ["--model.layers", "1", "--model.hidden", "32", "--model.heads", "2", "--model.ffn-hidden", "48"]
    small += ["--model.kv-heads", "1", "--model.head-dim", "16"]
    assert main(["pretrain", "--data.path", corpus, "--train.out", run, "--train.steps", "2", *small]) == 0
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
    assert "trained" in capsys.readouterr().err
    start = ["--init-from", f"{run}/model", "--train.epochs", "1", "--train.out", str(tmp_path / "next")]
    assert main(["pretrain", "--data.path", corpus, *start]) == 0
    assert "train.epochs = 1: 1 steps" in capsys.readouterr().err


def test_a_bundled_tokenizer_is_used_by_name(tmp_path):
    (tmp_path / "a.txt").write_text(PROSE["black"])
    manifest = build(tmp_path / "a.txt", tmp_path / "out", tokenizer="nano", shown=False)
    assert manifest["tokenizer"] == load_tokenizer("nano").fingerprint
    assert texts(tmp_path / "out") == {"a": [PROSE["black"].replace("-----\n", "")]}


def test_evaluation_items_of_any_kind_are_kept_out(tmp_path):
    (tmp_path / "texts").mkdir()
    question = " ".join(f"question{c}" for c in "abcdefghijklmnop")
    (tmp_path / "texts" / "a.txt").write_text(f"{PROSE['black']}\n{question}\n{PROSE['cold']}")
    (tmp_path / "items").mkdir()
    options = {"vocab_size": 512, "heldout": 0, "shown": False}
    one_line_error(
        lambda: build(tmp_path / "texts", tmp_path / "out", evaluation=tmp_path / "items", **options),
        "evaluation",
        "no",
    )
    pyarrow.parquet.write_table(pyarrow.table({"q": [{"stem": question}]}), tmp_path / "items" / "a.parquet")
    manifest = build(tmp_path / "texts", tmp_path / "out", evaluation=tmp_path / "items", **options)
    assert manifest["left_out"]["lines of evaluation items"] == 1


# Archives.

NAMES = ["../evil.txt", "/evil.txt", "a/../../evil.txt", "good/fine.txt"]


def everything(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def test_a_zip_writes_nothing_outside(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in [*NAMES, "..\\evil.txt"]:
            archive.writestr(name, "text")
    (tmp_path / "inner" / "to").mkdir(parents=True)
    sources.unpack_zip(tmp_path / "a.zip", tmp_path / "inner" / "to")
    assert everything(tmp_path) == ["a.zip", "inner/to/good/fine.txt"]


def test_a_tar_writes_nothing_outside_and_no_links(tmp_path):
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as archive:
        for name in NAMES:
            member = tarfile.TarInfo(name)
            member.size = 4
            archive.addfile(member, io.BytesIO(b"text"))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            link = tarfile.TarInfo(f"link{kind!r}")
            link.type, link.linkname = kind, "/etc/passwd"
            archive.addfile(link)
        through = tarfile.TarInfo("out")
        through.type, through.linkname = tarfile.SYMTYPE, "../.."
        archive.addfile(through)
        member = tarfile.TarInfo("out/evil.txt")
        archive.addfile(member, io.BytesIO(b""))
    (tmp_path / "inner" / "to").mkdir(parents=True)
    sources.unpack_tar(tmp_path / "a.tgz", tmp_path / "inner" / "to")
    assert everything(tmp_path) == ["a.tgz", "inner/to/good/fine.txt", "inner/to/out/evil.txt"]


def test_a_missing_or_failing_client_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    one_line_error(
        lambda: sources.fetch("npm:nothing@1.0.0", tmp_path / "cache"),
        "npm:nothing@1.0.0",
        "npm is not on this machine",
    )
    one_line_error(
        lambda: sources.fetch("deb:nothing", tmp_path / "cache"), "deb:nothing", "apt-get is not on this machine"
    )
    one_line_error(lambda: sources.fetch("pypi:not a name", tmp_path / "cache"), "pypi:not a name", "pip", "failed")
    assert not list((tmp_path / "cache").rglob("*.txt")) and not list((tmp_path / "cache").rglob("*download*"))


def test_two_programs_may_fetch_a_package_at_once(tmp_path, monkeypatch):
    def client(package, command, folder):
        with zipfile.ZipFile(folder / "a.whl", "w") as archive:
            archive.writestr("text.txt", "mine")
        (tmp_path / "unpacked/pypi/a-1").mkdir(parents=True)
        (tmp_path / "unpacked/pypi/a-1/text.txt").write_text("the other one's", encoding="utf-8")

    monkeypatch.setattr(sources, "_run", client)
    assert (sources.fetch("pypi:a==1", tmp_path) / "text.txt").read_text(encoding="utf-8") == "the other one's"
    assert everything(tmp_path) == ["unpacked/pypi/a-1/text.txt"]


# Sources files.

PART = '{ package = "npm:a@1", reader = "lines", files = ["x"] }'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("source = 3 3", ("not TOML",)),
        ("", ("[[source]]",)),
        ("[other]\n", ("other", "known")),
        (f'[[source]]\nname = "a/b"\nlanguage = "en"\nparts = [{PART}]', ("source[0].name", "file name")),
        (
            f'[[source]]\nname = "a"\nlanguage = "en"\nparts = [{PART.replace("lines", "nothing")}]',
            ("reader", "nothing", "html"),
        ),
        (
            f'[[source]]\nname = "a"\nlanguage = "en"\nparts = [{PART.replace("npm:", "hub:")}]',
            ("package", "hub:a@1", "pypi:"),
        ),
        (
            f'[[source]]\nname = "a"\nlanguage = "en"\nparts = [{PART.replace("files", "file")}]',
            ("source[0].parts[0].file",),
        ),
    ],
)
def test_wrong_sources_files_are_named(tmp_path, text, words):
    (tmp_path / "sources.toml").write_text(text)
    one_line_error(lambda: sources.read_recipe(tmp_path / "sources.toml"), *words)


def verses(path):
    """A reader of a recipe's own."""
    for poem in json.loads(path.read_text()):
        yield "\n".join([f"《{poem['title']}》", poem["author"], *poem["paragraphs"]])


def test_a_sources_file_is_built_from_its_packages_with_a_reader_of_the_recipe(tmp_path):
    """With a cache that already holds the package, so that no client is called."""
    package = tmp_path / "cache" / "unpacked" / "npm" / "poems-1"
    package.mkdir(parents=True)
    rng = random.Random(2)
    poems = [
        {
            "title": f"題{i}",
            "author": "無名",
            "paragraphs": ["".join(rng.choices("風雲鳥魚東車馬門開關萬龍", k=14)) + "。" for _ in range(4)],
        }
        for i in range(60)
    ]
    (package / "poems.json").write_text(json.dumps(poems))
    (package / "exam.jsonl").write_text(
        json.dumps(
            {
                "question": poems[4]["paragraphs"][2].translate(
                    str.maketrans("風雲鳥魚東車馬門開關萬龍", "风云鸟鱼东车马门开关万龙")
                )
            }
        )
    )
    part = '{ package = "npm:poems@1", reader = "verses", files = ["poems.json"], simplify = true, licence = "MIT" }'
    evaluation = '[[evaluation]]\npackage = "npm:poems@1"\nreader = "items"\nfiles = ["*.jsonl"]\n'
    (tmp_path / "sources.toml").write_text(
        f'[[source]]\nname = "poetry"\nlanguage = "zh"\nparts = [{part}]\n{evaluation}'
    )
    own, options = {**readers.READERS, "verses": verses}, {**SMALL, "vocab_size": 512, "cache": tmp_path / "cache"}
    manifest = build(tmp_path / "sources.toml", tmp_path / "corpus", readers=own, **options)
    entry = manifest["sources"][0]
    assert (entry["name"], entry["language"], entry["licence"]) == ("poetry", "zh", "MIT")
    kept = texts(tmp_path / "corpus")["poetry"] + texts(tmp_path / "corpus", "heldout")["poetry"]
    assert len(kept) == 60 and all(text.startswith("《题") and text.split("\n")[1] == "无名" for text in kept)
    assert sorted(text.count("\n") for text in kept) == [4] + [5] * 59


def test_programs_keep_every_line(tmp_path):
    """Lone brackets, rulers and blank lines are junk in prose."""
    package = tmp_path / "cache" / "unpacked" / "npm" / "a-1"
    package.mkdir(parents=True)
    code = "def total(rows):\n    return sum(\n        rows,  # all\n    )\n\n\n# ------\nprint(total([\n    1,\n]))"
    (package / "a.py").write_text(code)
    part = '{ package = "npm:a@1", reader = "plain", files = ["*.py"], code = true }'
    (tmp_path / "sources.toml").write_text(f'[[source]]\nname = "code"\nlanguage = "code"\nparts = [{part}]\n')
    options = {"shown": False, "heldout": 0.0, "tokenizer": "nano", "cache": tmp_path / "cache"}
    build(tmp_path / "sources.toml", tmp_path / "corpus", **options)
    assert texts(tmp_path / "corpus") == {"code": [code]}


def test_a_cap_keeps_whole_documents_in_order_and_is_stable():
    documents = [f"document {i} " * 5 for i in range(100)]
    kept = list(clean.sample_to_size(documents, 2000, "x"))
    assert kept == [text for text in documents if text in set(kept)] == list(clean.sample_to_size(documents, 2000, "x"))
    assert 2000 <= sum(map(len, kept)) < 2000 + max(map(len, documents))
    assert set(kept) <= set(clean.sample_to_size(documents, 4000, "x"))  # a larger cap adds documents


def test_few_texts_give_the_vocabulary_they_yield(tmp_path, capsys):
    """40 notes have too few different pairs of bytes for 8192 tokens: all that there are, and a line that says so."""
    folder, rng = tmp_path / "notes", random.Random(2)
    folder.mkdir()
    for number in range(40):
        (folder / f"{number}.txt").write_text("\n".join(sentences(rng, 3)), encoding="utf-8")
    manifest = build(folder, tmp_path / "corpus", shown=False)
    found = load_tokenizer(tmp_path / "corpus").vocab_size
    assert 290 < found < 8192 and manifest["vocab_size"] == found
    assert f"{found:,} tokens instead of 8,192" in capsys.readouterr().err
    documents = texts(tmp_path / "corpus")["notes"] + texts(tmp_path / "corpus", "heldout")["notes"]
    assert len(documents) == 40


def test_one_file_is_a_corpus_and_a_tokenizer_can_be_reused(tmp_path):
    poem = "静夜思\n床前明月光，疑是地上霜。\n举头望明月，低头思故乡。"
    (tmp_path / "poem.txt").write_text(poem, encoding="utf-8")
    manifest = build(tmp_path / "poem.txt", tmp_path / "corpus", tokenizer="nano", shown=False)
    assert texts(tmp_path / "corpus") == {"poem": [poem]}
    assert manifest["tokenizer"] == load_tokenizer("nano").fingerprint


def test_few_documents_are_all_trained_on(tmp_path):
    """One of two held out would be half of a user's texts, where a hundredth was asked for."""
    folder = tmp_path / "two"
    folder.mkdir()
    for number in range(2):
        (folder / f"{number}.txt").write_text("\n".join(sentences(random.Random(number), 4)), encoding="utf-8")
    manifest = build(folder, tmp_path / "corpus", tokenizer="nano", shown=False)
    assert manifest["sources"][0]["documents"] == 2


BUILD = """
import sys
from pathlib import Path
from openglm.data import build
def slow(path):
    import os, time
    os.write(1, f"{path.name}\\n".encode())
    time.sleep(600)
    yield "never"
units = tuple(build.Unit("a", (name,), "slow") for name in sys.argv[2:])
plan = build.Plan((build.SourceInfo("a", "", ""),), units, (), 300, 0.0, "")
stages = build.stages(plan, sys.argv[1], {"slow": slow})
for stage in stages[:2]:
    build.run_locally(stage, f"{sys.argv[1]}/log-{stage.name}", 2, lambda: None)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_a_killed_build_leaves_no_process_behind(tmp_path):
    files = []
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text("text")
        files.append(str(tmp_path / f"{name}.txt"))
    command = [sys.executable, "-c", BUILD, str(tmp_path / "work"), *files]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert {process.stdout.readline().strip() for _ in range(2)} == {"a.txt", "b.txt"}
        process.send_signal(signal.SIGKILL)
        process.wait()
        end = time.monotonic() + 10
        while (left := members(process.pid)) and time.monotonic() < end:
            time.sleep(0.05)
        assert not left
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def members(group: int) -> list[str]:
    """Processes of a group that still run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, number = path.read_text().rpartition(")")[2].split()[:3]
            if int(number) == group and state != "Z":
                found.append(path.parent.name)
    return found


def test_a_second_build_into_the_same_folder_waits_its_turn(tmp_path):
    """Whatever its texts: two of them would take each other's files away."""
    (tmp_path / "a.txt").write_text("Some words that are long enough to be kept.", encoding="utf-8")
    holder = "import sys, pathlib; from openglm.files import locked\nwith locked(pathlib.Path(sys.argv[1]), 'out', 'building'): print(1, flush=True); input()"
    command = [sys.executable, "-c", holder, str(tmp_path / "corpus.work")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        options = {"tokenizer": "nano", "shown": False}
        one_line_error(
            lambda: build(tmp_path / "a.txt", tmp_path / "corpus", **options), f"process {process.pid}", "out = "
        )
        process.communicate("\n")
    assert build(tmp_path / "a.txt", tmp_path / "corpus", **options)["sources"][0]["documents"] == 1
    assert not (tmp_path / "corpus.work").exists()
