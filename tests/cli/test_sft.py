"""`glm sft` before it trains: options, and what it shows of the data."""

import json

import pytest

import openglm
from openglm.cli.main import main
from openglm.cli.options import parse
from openglm.cli.sft import SFTOptions
from openglm.config import DataConfig, TrainConfig

DEFAULT = SFTOptions(init_from="m", train=TrainConfig(out="x", steps=1), data=DataConfig())


def test_an_option_of_several_values_may_be_given_several_times():
    argv = ["--data.dialogues", "a", "1", "--train.steps", "3", "--data.dialogues", "b", "2", "c", "3"]
    options = parse(SFTOptions, [*argv, "--data.fields=prompt=q", "--data.fields", "response=a"], "glm", "", DEFAULT)
    assert options.data.dialogues == {"a": "1", "b": "2", "c": "3"} and options.train.steps == 3
    assert options.data.fields == ("prompt=q", "response=a")
    with pytest.raises(ValueError, match=r"--data.dialogues = 'a': this name is given twice"):
        parse(SFTOptions, [*argv, "--data.dialogues", "a", "4"], "glm", "", DEFAULT)


@pytest.fixture
def chats(tmp_path):
    path = tmp_path / "chats.json"
    path.write_text(json.dumps([{"q": f"hello {i}", "a": f"bye {i}"} for i in range(5)]))
    return ["sft", "--init-from", "nano", "--data.dialogues", "mine", str(path), "--data.fields", "prompt=q"]


def test_show_marks_what_is_trained_and_needs_no_run(chats, capsys):
    assert main([*chats, "response=a", "--show", "2", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["examples"]
    assert len(shown) == 2
    tokenizer = openglm.load_tokenizer("nano")
    for number, parts in enumerate(shown):
        messages = [{"role": "user", "content": f"hello {number}"}, {"role": "assistant", "content": f"bye {number}"}]
        ids, mask = tokenizer.render(messages)
        assert "".join(text for text, _ in parts) == tokenizer.decode(ids, skip_special=False)
        trained = [i for i, t in zip(ids, mask, strict=True) if t]
        assert [text for text, is_trained in parts if is_trained] == [tokenizer.decode(trained, skip_special=False)]
    assert main([*chats, "response=a", "--show=1"]) == 0
    out, err = capsys.readouterr()
    assert "\u27e6bye 0<|user|>\u27e7" in out and "5 conversations" in err


def test_show_finds_the_faults_of_all_files(chats, tmp_path, capsys):
    (tmp_path / "more.jsonl").write_text('{"q": 1, "a": "x"}\n')
    more = ["--data.dialogues", "more", str(tmp_path / "more.jsonl")]
    assert main([*chats, "response=lost", *more, "--show", "1"]) == 1
    err = capsys.readouterr().err
    assert "chats.json, records 1-5" in err and "more.jsonl, line 1" in err and "--data.skip-bad" in err
