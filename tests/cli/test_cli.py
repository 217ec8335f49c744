"""The command line: answers on standard output, one-line errors on standard error, files and flags that agree."""

import io
import json
import os
import subprocess
import sys

import pytest

from openglm.cli.main import VERBS, main
from openglm.cli.options import parse
from openglm.config import DataConfig, PretrainConfig, TrainConfig, require
from openglm.presets import model_preset


def run(capsys, *argv: str) -> tuple[int, str, str]:
    code = main(list(argv))
    out, err = capsys.readouterr()
    return code, out, err


def test_help_names_every_verb_and_loads_neither_torch_nor_tyro():
    code = "import sys; from openglm.cli.main import main; main(['--help']); assert not {'torch', 'tyro', 'rich'} & set(sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert all(f"\n  {verb} " in out for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_has_a_line_of_help(verb, capsys):
    with pytest.raises(SystemExit) as end:
        main([verb, "--help"])
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert "--config" in out and "None)" not in out.replace("(default: None)", "")


@pytest.mark.parametrize(
    "argv,code,words",
    [
        (["dance"], 2, ["dance", "chat"]),
        (["chat", "no/such/model", "--prompt", "x"], 1, ["no/such/model"]),
        (["chat", "--tempratur", "1"], 1, ["tempratur"]),
        (["chat", "--config"], 1, ["--config", "value"]),
        (["chat", "--config", "missing.toml"], 1, ["missing.toml"]),
        (["chat", "TOY", "--device", "abacus", "--prompt", "x"], 1, ["abacus", "cpu"]),
        (["pretrain", "--preset", "glm-4-9", "--train.out", "x", "--train.steps", "1"], 1, ["glm-4-9", "glm-130b"]),
        (["pretrain", "--data.path", "nowhere", "--train.out", "x", "--train.steps", "1"], 1, ["nowhere"]),
        (["pretrain", "--model.norm", "batchnorm"], 1, ["batchnorm", "layernorm"]),
        (
            [
                "sft",
                "--init-from",
                "nothing",
                "--train.out",
                "x",
                "--train.steps",
                "1",
                "--data.dialogues",
                "a",
                "b.jsonl",
            ],
            1,
            ["nothing"],
        ),
        (["data", "scrape"], 1, ["scrape", "build"]),
        (["tokenizer", "nowhere", "--out", "x"], 1, ["nowhere"]),
        (["fill", "no blank here", "--model", "TOY"], 1, ["blank", "___"]),
    ],
)
def test_mistakes_are_one_line_that_names_them(argv, code, words, toy, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    got, out, err = run(capsys, *[str(toy) if word == "TOY" else word for word in argv])
    assert (got, out) == (code, "")
    assert err.count("\n") == 1 and all(word in err for word in words), err
    assert not list(tmp_path.iterdir()), "a refused command leaves nothing behind"


def test_prompt_json_and_pipe_give_the_same_answer(toy, capsys, monkeypatch):
    options = ["--temperature", "0", "--max-tokens", "8"]
    code, out, _ = run(capsys, "chat", str(toy), "--prompt", "你好", "--json", *options)
    answer = json.loads(out)
    assert code == 0 and answer.keys() == {"text", "tool_calls", "citations", "usage"}
    monkeypatch.setattr(sys, "stdin", io.StringIO("你好\n"))
    assert run(capsys, "chat", str(toy), *options)[1].strip("\n") == answer["text"].strip("\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO(" \n"))
    code, _, err = run(capsys, "chat", str(toy))
    assert code == 1 and "empty" in err


def test_fill_puts_the_words_into_the_text(toy, capsys):
    _, out, _ = run(capsys, "fill", "床前___光", "--model", str(toy), "--json", "--max-tokens", "3")
    answer = json.loads(out)
    assert answer.keys() == {"text", "fillings", "choices"}
    assert answer["text"] == f"床前{answer['fillings'][0]}光"
    [choices] = answer["choices"]
    assert len(choices) == 5 and choices[0]["text"] == answer["fillings"][0]
    chances = [choice["probability"] for choice in choices]
    assert chances == sorted(chances, reverse=True) and 0 < sum(chances) <= 1 + 1e-9


def test_a_file_sets_options_and_flags_override_it(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(
        '[train]\nout = "here"\nsteps = 7\ncompile = true\n[data]\npath = "corpus"\n[data.weights]\na = 2\nb = 1.5\n[model]\nlayers = 3\n',
        encoding="utf-8",
    )
    default = PretrainConfig(model=model_preset("nano"), data=DataConfig(), train=TrainConfig(out="x", steps=1))
    config = parse(PretrainConfig, ["--config", str(file), "--train.steps", "9"], "glm pretrain", "about", default)
    assert (config.train.out, config.train.steps, config.train.compile, config.model.layers) == ("here", 9, True, 3)
    assert config.data.weights == {"a": 2.0, "b": 1.5}
    file.write_text("[train]\nstep = 7\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"train\.step.*steps"):
        parse(PretrainConfig, ["--config", str(file)], "glm pretrain", "about", default)


@pytest.mark.parametrize("argv", [["--help"], ["plan", "--help"]], ids=" ".join)
def test_a_reader_that_has_seen_enough_is_no_error(argv):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-m", "openglm.cli.main", *argv], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert done.returncode == 0 and done.stderr == b""


def test_chat_takes_the_engines_options_by_the_names_of_serve(toy, capsys):
    flags = ["--engine.kv-tokens", "48", "--engine.max-sequences", "1", "--engine.runner", "torch"]
    assert main(["chat", str(toy), "--prompt", "你好", "--max-tokens", "90", "--json", *flags]) == 0
    usage = json.loads(capsys.readouterr().out)["usage"]
    assert sum(usage.values()) <= 48
    assert main(["chat", str(toy), "--prompt", "你好", "--engine.kv-tokens", "-1"]) == 1
    assert "engine.kv_tokens = -1" in capsys.readouterr().err


@pytest.mark.parametrize(
    "module,line",
    [
        ("torch", "pip install openglm"),
        ("pydantic.fields", "pip install openglm"),
        ("fastapi", "pip install 'openglm[serve]'"),
        ("prometheus_client", "pip install 'openglm[serve]'"),
        ("opencc", "pip install 'openglm[data]'"),
        ("yaml", "pip install 'openglm[data]'"),
    ],
)
def test_a_missing_package_is_named_with_the_line_that_installs_it(module, line, monkeypatch, capsys):
    """A base package with the base install, and one of an extra with its extra."""

    def missing(name):
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr("openglm.cli.main.importlib.import_module", missing)
    code, _, err = run(capsys, "bench")
    assert code == 1 and err.strip().endswith(f"{module!r} is missing; install it with: {line}")


HUGE = "x" * 2_000_000


def test_no_error_prints_a_value_of_two_megabytes(tmp_path, capsys):
    folder = tmp_path / "model"
    folder.mkdir()
    for values in ({"model_type": HUGE}, {"model_type": "glm4", "num_hidden_layers": HUGE}, {HUGE: 1}, {"quantization_config": {"quant_method": HUGE}},
                   {"format": "openglm", "version": 1, "model": {HUGE: 1}}, {"format": "openglm", "version": [HUGE]},
                   {"model_type": "glm4", "num_hidden_layers": 1, "rope_scaling": {HUGE: 2}}):  # fmt: skip
        (folder / "config.json").write_text(json.dumps(values))
        for verb in (["inspect", str(folder)], ["convert", str(folder), str(tmp_path / "out")]):
            assert main(verb) == 1
            assert 0 < len(capsys.readouterr().err) < 4000
    long = tmp_path / "config.toml"
    for text in (f'prompt = ["{HUGE}"]', f"{HUGE} = 1", f'temperature = "{HUGE}"', f'[engine]\nrunner = "{HUGE}"'):
        long.write_text(text)
        assert main(["chat", "--config", str(long)]) == 1
        assert 0 < len(capsys.readouterr().err) < 20_000
    for argv in (
        [HUGE],
        ["inspect", HUGE],
        ["chat", HUGE],
        ["chat", "--prompt", "a", "--device", HUGE],
        ["fill", HUGE],
        ["chat", "--seed", HUGE],
    ):
        assert main(argv) in (1, 2)
        assert 0 < len(capsys.readouterr().err) < 20_000


def test_a_number_that_python_does_not_write_is_an_error_of_one_line():
    with pytest.raises(ValueError, match=r"^model.layers = a int too long to show: must") as error:
        require(False, "model.layers", 10**10_000, "must be small")
    assert "\n" not in str(error.value)
