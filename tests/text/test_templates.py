"""Chat templates: ours as other programs read them, and those of folders, which may be anything."""

import json
import shutil
import time

import pytest

from openglm.checkpoints.library import write_library_files
from openglm.text import load_tokenizer
from openglm.text.templates import rendered

transformers = pytest.importorskip("transformers")

CHAT = [
    {"role": "user", "content": "你好"},
    {"role": "assistant", "content": "Hello  there"},
    {"role": "user", "content": "1 + 1\n= ?"},
]
TEXTS = ["你好，世界 hello  world\n\n  x", "", "  lead", "sophisticated people", "▁a ", "a\tb🚀\x00", "naïve </s"]


@pytest.mark.parametrize("kind", ["chatglm2-6b", "chatglm3-6b", "glm-4"])
def test_transformers_reads_the_same_ids_specials_and_template(folders, tmp_path, kind):
    source = shutil.copytree(folders[kind], tmp_path / "source")
    words = {"新词元": load_tokenizer(source).vocab_size}
    (source / "added_tokens.json").write_text(json.dumps(words))
    tokenizer = load_tokenizer(source)
    write_library_files(tmp_path, tokenizer)
    (tmp_path / "config.json").write_text('{"model_type": "glm", "vocab_size": 2000, "pad_token_id": 0}')
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.convert_tokens_to_ids(list(tokenizer.special)) == list(tokenizer.special.values())
    for text in [*TEXTS, "a 新词元b"]:
        assert theirs.encode(text, add_special_tokens=False) == tokenizer.encode(text)
        assert theirs.encode(text) == tokenizer.prompt(text)
        if text in TEXTS:  # the library keeps SentencePiece's space behind an added token
            assert theirs.decode(tokenizer.encode(text)) == text.replace("▁", " " if "chatglm" in kind else "▁")
    for chat in (CHAT[:1], CHAT, [{"role": "system", "content": "S."}, *CHAT]):
        asked = theirs.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        assert asked == tokenizer.render(chat, generation_prompt=True)[0]
    shutil.copy(source / "tokenizer.model", tmp_path)
    again = load_tokenizer(tmp_path)
    assert (again.special, again.added, again.format) == (tokenizer.special, words, tokenizer.format)


def test_a_vocabulary_that_the_library_has_no_form_for_is_refused(folders, tmp_path):
    with pytest.raises(ValueError, match="no form for this vocabulary"):
        write_library_files(tmp_path, load_tokenizer(folders["chatglm-6b"]))


ALPACA = "{% for m in messages %}### {{ m.role }}:\n{{ m.content }}\n{% endfor %}### Response:\n<think>"
EDGE = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}<|assistant|>\n"
GLM4 = "[gMASK]<sop>{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}<|assistant|>"


@pytest.mark.parametrize(
    ("template", "said"),
    [(GLM4, ""), (ALPACA, "'### user"), (EDGE, "'<|user|>"), ("{{ messages[9].x.y }}", "cannot be rendered")],
)
@pytest.mark.parametrize("place", ["jinja", "settings"])
def test_a_template_that_asks_otherwise_is_said(folders, tmp_path, capsys, template, said, place):
    folder = shutil.copytree(folders["glm-4"], tmp_path / "m")
    if place == "jinja":
        (folder / "chat_template.jinja").write_text(template)
    else:
        named = [{"name": "default", "template": template}, {"name": "tool_use", "template": "x"}]
        (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert load_tokenizer(folder).format.name == "glm-4"
    error = capsys.readouterr().err
    assert (said in error and str(folder) in error and error.count("\n") == 1) if said else error == ""


def test_chatglm3s_published_form_is_ours(folders, tmp_path, capsys):
    """A text behind a role token begins with SentencePiece's space, which a template writes out."""
    folder = shutil.copytree(folders["chatglm3-6b"], tmp_path / "m")
    template = "{% for m in messages %}{% if loop.first %}[gMASK]sop{% endif %}<|{{ m.role }}|>\n {{ m.content }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    (folder / "chat_template.jinja").write_text(template)
    load_tokenizer(folder)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(x='a') %}{% for a in range(9999) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{% include '/etc/passwd' %}",
        "{{ raise_exception('no') }}",
        "{% for",
        "x" * 300_000,
    ],
    ids=["loops", "doubling", "objects", "files", "raises", "broken", "long"],
)
def test_a_hostile_template_ends(template):
    start = time.process_time()
    assert rendered(template, {}) is None and time.process_time() - start < 5
