"""How answers are drawn where the user does not say: as the makers or the folder say, in every caller and after every
conversion."""

import json
import shutil

import pytest
from helpers.families import network, small
from helpers.live import Live
from helpers.tokenizer_files import GOLDEN, ranks_of, tiktoken_file

from openglm.assistant import Assistant
from openglm.checkpoints.convert import convert
from openglm.checkpoints.gguf import write_gguf
from openglm.checkpoints.quantize import quantize_checkpoint
from openglm.cli.main import main
from openglm.config import EngineConfig
from openglm.engine.engine import Engine
from openglm.text.formats import FORMATS
from openglm.text.load import load_tokenizer

GIVEN = {"temperature": 0.35, "top_p": 0.45, "top_k": 7}
ASKED = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def folder(toy, tmp_path_factory):
    """The toy model, whose folder says how its answers are drawn."""
    target = shutil.copytree(toy, tmp_path_factory.mktemp("given") / "model")
    (target / "generation_config.json").write_text(json.dumps(GIVEN))
    return target


@pytest.fixture
def drawn(monkeypatch):
    """What the engine was asked with."""
    found, add = [], Engine.add_request

    def watched(self, prompt, params, adapter=None):
        found.append({name: getattr(params, name) for name in GIVEN})
        return add(self, prompt, params, adapter)

    monkeypatch.setattr(Engine, "add_request", watched)
    return found


@pytest.fixture(scope="module")
def live(folder):
    server = Live(Assistant(folder, device="cpu", engine=EngineConfig(max_sequences=4)), page=True)
    yield server
    server.stop()


def test_an_assistant_draws_as_its_folder_says(folder, drawn):
    assistant = Assistant(folder, device="cpu")
    assistant.reply(ASKED, max_tokens=2)
    assistant.reply(ASKED, max_tokens=2, temperature=0.9)
    assert drawn == [GIVEN, {**GIVEN, "temperature": 0.9}]


def test_the_terminal_draws_as_the_folder_says(folder, drawn, capsys):
    assert main(["chat", str(folder), "--prompt", "hi", "--max-tokens", "2", "--device", "cpu"]) == 0
    assert main(["chat", str(folder), "--prompt", "hi", "--max-tokens", "2", "--device", "cpu", "--top-p", "1"]) == 0
    assert drawn == [GIVEN, {**GIVEN, "top_p": 1.0}]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": ASKED, "max_tokens": 2}),
        ("/v1/completions", {"prompt": "hi", "max_tokens": 2}),
        ("/", {"prompt": "hi", "max_length": 20}),
    ],
)
def test_the_server_draws_as_the_folder_says(live, drawn, path, body):
    assert live.client.post(path, json=body).status_code == 200
    assert live.client.post(path, json={**body, "temperature": 0.9}).status_code == 200
    assert drawn == [GIVEN, {**GIVEN, "temperature": 0.9}]


def test_the_page_opens_with_the_folders_values(live):
    shown = [component["props"].get("value") for component in live.client.get("/config").json()["components"]]
    assert GIVEN["temperature"] in shown and GIVEN["top_p"] in shown


def test_makers_values_are_those_published():
    """GLM-Z1, ChatGLM-6B and ChatGLM3-6B: generation_config.json or the chat method of the published folders."""
    for name, values in {"glm-z1": (0.6, 0.95, 40), "chatglm-6b": (0.95, 0.7, 0), "chatglm3-6b": (0.8, 0.8, 0)}.items():
        assert tuple(FORMATS[name].sampling.params.values()) == values


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"do_sample": False, "temperature": 0.9}, {"temperature": 0.0}),
        ({"do_sample": True, "temperature": 1}, {"temperature": 1}),
        ({"temperature": None, "top_k": True, "eos_token_id": [1]}, {}),
    ],
)
def test_a_generation_config_is_read_as_transformers_reads_it(toy, tmp_path, given, wanted):
    target = shutil.copytree(toy, tmp_path / "model")
    (target / "generation_config.json").write_text(json.dumps(given))
    assert load_tokenizer(target).format.sampling.params == FORMATS["openglm"].sampling.params | wanted


@pytest.mark.parametrize(("name", "value"), [("temperature", -1), ("top_p", 0), ("top_k", -1)])
def test_a_value_that_cannot_be_is_named_with_its_file(toy, tmp_path, name, value):
    target = shutil.copytree(toy, tmp_path / "model")
    (target / "generation_config.json").write_text(json.dumps({name: value}))
    with pytest.raises(ValueError, match=rf"generation_config\.json: {name} = {value}"):
        load_tokenizer(target)


@pytest.mark.parametrize("bits", [0, 4])
def test_our_own_copies_keep_the_values(folder, tmp_path, bits):
    out = tmp_path / "out"
    if bits:
        quantize_checkpoint(folder, out, bits, group=32)
    else:
        convert(folder, out, "openglm")
    assert load_tokenizer(out).format.sampling.params == GIVEN


@pytest.fixture
def glm4(toy, tmp_path):
    """A small GLM-4 in its original layout, with a tokenizer."""
    target = shutil.copytree(GOLDEN / "glm4_9b/checkpoint", tmp_path / "glm4")
    (target / "tokenizer.model").write_bytes(tiktoken_file(ranks_of(load_tokenizer(toy))))
    return target


def test_copies_for_transformers_keep_the_file_and_get_one_that_also_ends_answers(glm4, tmp_path):
    from transformers import GenerationConfig

    (glm4 / "generation_config.json").unlink(missing_ok=True)
    made = GenerationConfig.from_pretrained(convert(glm4, tmp_path / "made", "hf"))
    usual = FORMATS["glm-4"].sampling
    assert (made.temperature, made.top_p, made.do_sample) == (usual.temperature, usual.top_p, True)
    assert made.eos_token_id == json.loads((tmp_path / "made" / "config.json").read_text())["eos_token_id"]
    own = {**GIVEN, "do_sample": True, "eos_token_id": [1, 2]}
    (glm4 / "generation_config.json").write_text(json.dumps(own))
    kept = json.loads((convert(glm4, tmp_path / "kept", "hf") / "generation_config.json").read_text())
    assert {**kept, **own} == kept | {"eos_token_id": [1, 2]}
    assert {1, 2} < set(kept["eos_token_id"])  # and the ends that configuration and tokenizer name


def test_copies_for_llama_cpp_say_the_values(folder, tmp_path):
    from gguf import GGUFReader

    model, tokenizer = network(small("glm-4-9b-chat", vocab_size=400)), load_tokenizer(folder)
    write_gguf(tmp_path / "m.gguf", dict(model.named_parameters()), model.config, tokenizer)
    fields = GGUFReader(tmp_path / "m.gguf").fields
    said = {key: fields[f"general.sampling.{key}"].contents() for key in ("temp", "top_p", "top_k")}
    assert said == pytest.approx({"temp": 0.35, "top_p": 0.45, "top_k": 7})
