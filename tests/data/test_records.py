"""Records of users' files: the same ones whatever holds them, and no loss without a word."""

import bz2
import csv
import gzip
import json
import lzma

import pyarrow
import pyarrow.parquet
import pytest

from openglm.data.records import read_records, records

ROWS = [{"prompt": f"问\u2028{i} [{{", "response": 'a "quoted" \\\\ }'} for i in range(7)]
LINES = [json.dumps(row, ensure_ascii=False) for row in ROWS]
TEXTS = {
    "lines": "\n".join(LINES),
    "with blank lines": "\n\n".join(LINES) + "\n\n",
    "with commas": ",\n".join(LINES) + ",\n",
    "old line ends": "\r".join(LINES),
    "with a mark": "\ufeff" + "\r\n".join(LINES),
    "on one line": "  ".join(LINES),
    "array": json.dumps(ROWS, ensure_ascii=False),
    "array of lines": "[\n" + ",\n".join(LINES) + "\n]\n",
    "array that ends with a line": "[" + ",\n".join(LINES) + "]",
    "array, indented": json.dumps(ROWS, indent=2, ensure_ascii=False),
    "array, not indented": json.dumps(ROWS, indent=0, ensure_ascii=False),
    "objects, indented": "\n".join(json.dumps(row, indent=4) for row in ROWS),
    "objects, not indented": "\n".join(json.dumps({"messages": [row, row]}, indent=0) for row in ROWS),
}


def values(path):
    return [record for _, record in records(path)]


@pytest.mark.parametrize("form", TEXTS)
def test_every_form_of_json_gives_the_same_records(tmp_path, form):
    path = tmp_path / "a.json"
    path.write_bytes(TEXTS[form].encode())
    expected = [{"messages": [row, row]} for row in ROWS] if form == "objects, not indented" else ROWS
    assert values(path) == expected


@pytest.mark.parametrize("ending, pack", [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)])
def test_packed_files(tmp_path, ending, pack):
    path = tmp_path / f"a.jsonl{ending.upper()}"
    path.write_bytes(pack(TEXTS["lines"].encode()))
    assert values(path) == ROWS
    path.write_bytes(pack(TEXTS["lines"].encode())[:-9])
    with pytest.raises(ValueError, match="cannot be unpacked"):
        values(path)


def test_zstandard(tmp_path):
    with pyarrow.output_stream(str(tmp_path / "a.jsonl.zst"), compression="zstd") as file:
        file.write(TEXTS["lines"].encode())
    assert values(tmp_path / "a.jsonl.zst") == ROWS


def test_an_object_around_the_records(tmp_path):
    """{"version": .., "data": [..]}, as many published sets are; a record of its own with a field "data" stays one."""
    (tmp_path / "a.json").write_text(json.dumps({"version": "1.0", "data": ROWS}, indent=2))
    assert values(tmp_path / "a.json") == ROWS
    own = {"text": "t", "data": [{"a": 1}]}
    (tmp_path / "b.jsonl").write_text(json.dumps(own))
    assert values(tmp_path / "b.jsonl") == [own]


def test_tables(tmp_path):
    with open(tmp_path / "a.csv", "w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, ["prompt", "response"])
        writer.writeheader()
        writer.writerows(ROWS)
    assert values(tmp_path / "a.csv") == ROWS
    messages = [[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "loss": False}]]
    pyarrow.parquet.write_table(pyarrow.table({"messages": messages}), tmp_path / "a.parquet")
    expected = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "loss": False}]
    assert values(tmp_path / "a.parquet") == [{"messages": expected}], "without the nulls that fill the table"


@pytest.mark.parametrize(
    "broken",
    ['{"prompt": "cut', '{"prompt": "x",', '{"prompt": ["x"', '{"prompt": "x"}}', "{", "}", "nothing", "\\xff"],
)
@pytest.mark.parametrize("between", ["\n", ",\n"])
def test_a_broken_line_costs_no_other(tmp_path, broken, between):
    lines = [*LINES[:3], broken, *LINES[3:]]
    path = tmp_path / "a.jsonl"
    path.write_bytes(between.join(lines).encode().replace(b"\\xff", b"\xff"))
    found = list(records(path))
    assert [record for _, record in found if isinstance(record, dict)][-4:] == ROWS[3:]
    assert [record for _, record in found if isinstance(record, dict)][:3] == ROWS[:3]
    assert next(where for where, record in found if not isinstance(record, dict)) in ("line 4", "record 5")


def test_other_encodings_are_named(tmp_path):
    path = tmp_path / "a.jsonl"
    for codec in ("utf-16", "utf-16-le", "utf-16-be"):
        path.write_bytes(TEXTS["lines"].encode(codec))
        with pytest.raises(ValueError, match=r"a.jsonl: is UTF-16, not UTF-8"):
            values(path)
    path.write_bytes(json.dumps({"prompt": "中文"}, ensure_ascii=False).encode("gbk"))
    with pytest.raises(ValueError, match="probably GBK"):
        list(read_records(path, lambda record: record, "data.dialogues"))


def test_a_folder_is_read_and_what_is_not_is_said(tmp_path, capsys):
    folder = tmp_path / "chats"
    (folder / ".ipynb_checkpoints").mkdir(parents=True)
    (folder / ".ipynb_checkpoints" / "a.jsonl").write_text(LINES[6])
    (folder / "a.JSONL").write_text(LINES[0])
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.json").write_text(LINES[1])
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "loop").symlink_to(folder)
    (folder / "notes.docx").write_text("x")
    assert list(read_records(folder, lambda record: record, "data.dialogues")) == ROWS[:2]
    said = capsys.readouterr().err
    assert (
        "1 .docx (notes.docx)" in said and "1 hidden (.ipynb_checkpoints)" in said and "1 linked twice (loop)" in said
    )
