"""Several adapters over one model behind one server: a request's `model` chooses, and each is answered as by it alone."""

import concurrent.futures
import dataclasses
import json

import pytest
import torch
from helpers.live import Live

from openglm import assistant as assistant_module
from openglm.assistant import Assistant
from openglm.checkpoints.adapters import home_layout, new_encoder, write_lora, write_prefix
from openglm.checkpoints.load import network_config
from openglm.cli.main import main
from openglm.config import EngineConfig, LoraConfig, PrefixConfig
from openglm.model.adapters import Lora

LORA, PREFIX = LoraConfig(4, alpha=8, targets=("all",)), PrefixConfig(5)
NAMES = ("poet", "painter", "singer")


def lora_folder(folder, base, seed, config=None):
    config = config or network_config(base)
    lora = Lora.fresh(config, LORA, seed)
    draw = torch.Generator().manual_seed(seed)
    for name in lora.names:
        lora.raw(name)[1].data.normal_(0, 0.5, generator=draw)
    return write_lora(folder, lora, config, home_layout(config, None), LORA, str(base))


@pytest.fixture(scope="module")
def folders(toy, tmp_path_factory):
    root = tmp_path_factory.mktemp("adapters")
    encoder = new_encoder(network_config(toy), PREFIX)
    encoder.embedding.weight.data.normal_(0, 2, generator=torch.Generator().manual_seed(3))
    found = {name: lora_folder(root / name, toy, seed) for seed, name in enumerate(NAMES[:2], 1)}
    return {**found, "singer": write_prefix(root / "singer", dict(encoder.state_dict()), PREFIX)}


@pytest.fixture(scope="module")
def server(toy, folders):
    found = Live(Assistant(toy, adapters=folders, device="cpu", engine=EngineConfig(max_sequences=8)))
    yield found
    found.stop()


def test_a_mixed_batch_is_answered_as_each_adapter_answers_alone(toy, folders, server):
    wanted, marks = {}, {}
    for name in (None, *NAMES):
        alone = Assistant(toy, adapter=folders.get(name), device="cpu")
        reply = alone.reply([{"role": "user", "content": "你好"}], max_tokens=8, temperature=0)
        wanted[name], marks[name] = reply.text.strip(), alone.fingerprint
    assert len(set(wanted.values())) == len(wanted), "every adapter says something else"
    asked = [name for _ in range(4) for name in wanted]
    with concurrent.futures.ThreadPoolExecutor(len(asked)) as pool:
        replies = list(pool.map(lambda name: server.chat(**({"model": name} if name else {})).json(), asked))
    for name, reply in zip(asked, replies, strict=True):
        assert reply["choices"][0]["message"]["content"].strip() == wanted[name]
        assert reply["model"] == (name or "toy") and reply["system_fingerprint"] == marks[name]


@pytest.mark.parametrize("stream", [False, True])
def test_every_interface_answers_with_the_adapter_that_it_is_asked_for(toy, folders, server, stream):
    alone = Assistant(toy, adapter=folders["poet"], device="cpu")
    wanted = alone.reply([{"role": "user", "content": "你好"}], max_tokens=8, temperature=0).text.strip()
    said = [{"role": "user", "content": "你好"}]
    usual = {"model": "poet", "stream": stream}
    asked = {
        "/v1/responses": {"input": "你好", "max_output_tokens": 8, "temperature": 0, **usual},
        "/v1/messages": {"messages": said, "max_tokens": 8, "temperature": 0, **usual},
        "/api/chat": {"messages": said, "options": {"num_predict": 8, "temperature": 0}, **usual},
    }
    whole = {
        "/v1/responses": lambda reply: reply["output"][0]["content"][0]["text"],
        "/v1/messages": lambda reply: reply["content"][0]["text"],
        "/api/chat": lambda reply: reply["message"]["content"],
    }
    for path, body in asked.items():
        reply = server.client.post(path, json=body)
        assert reply.status_code == 200 and '"poet"' in reply.text, reply.text
        found = _streamed(reply.text) if stream else whole[path](reply.json())
        assert found.strip() == wanted, path


def _streamed(stream):
    """The pieces of an answer in any of the three forms."""
    found = []
    for line in stream.splitlines():
        line = line.removeprefix("data: ")
        if line.startswith("{"):
            event = json.loads(line)
            delta = event.get("delta", event["message"]["content"] if "done" in event else "")
            found.append(delta.get("text", "") if isinstance(delta, dict) else delta)
    return "".join(found)


def test_adapters_are_models_of_the_list(server):
    cards = {card["id"]: card for card in server.client.get("/v1/models").json()["data"]}
    assert list(cards) == ["toy", *NAMES] and all(cards[name]["parent"] == "toy" for name in NAMES)
    assert server.client.get("/v1/models/poet").json() == cards["poet"]
    reply = server.chat(model="sculptor")
    assert reply.status_code == 404 and "use 'toy' or 'poet'" in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("poet", "adapters = 'poet': write NAME=FOLDER"),
        ("poet=/nowhere", "adapter = '/nowhere': no such folder"),
        ("model={}", "adapters = 'model': is the model's own name"),
        ("far={}", "belongs to another model"),
    ],
)
def test_a_wrong_adapter_ends_the_start_in_one_line(toy, folders, tmp_path, capsys, monkeypatch, given, words):
    folder = folders["poet"]
    if given.startswith("far"):
        other = dataclasses.replace(network_config(toy), hidden=64)
        folder = lora_folder(tmp_path / "far", toy, 1, other)
    if not given.startswith("model"):
        monkeypatch.setattr(assistant_module, "load_model", lambda *_, **__: pytest.fail("weights were read"))
    command = ["serve", str(toy), "--port", "0", "--no-page", "--no-feedback", "--device", "cpu", "--adapters"]
    assert main([*command, given.format(folder)]) == 1
    assert words in capsys.readouterr().err.strip().splitlines()[-1]
