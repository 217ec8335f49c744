"""Another version of the model beside the one that answers: who may, who answers what, and nothing is disturbed."""

import concurrent.futures
import time

import pytest
import torch
from helpers.live import slowed

from openglm.assistant import Assistant
from openglm.checkpoints.load import load_model
from openglm.checkpoints.native import save_model
from openglm.config import EngineConfig
from openglm.text.load import load_tokenizer

ADMIN = {"Authorization": "Bearer over-there"}
ENGINE = EngineConfig(max_sequences=4)


@pytest.fixture(scope="module")
def better(toy, tmp_path_factory):
    """The toy model, tuned to say something else."""
    model = load_model(toy)
    model.initialize(torch.Generator().manual_seed(4))
    return save_model(tmp_path_factory.mktemp("better") / "model", model, load_tokenizer(toy))


@pytest.fixture(scope="module")
def oracles(toy, better):
    found = [Assistant(folder, device="cpu") for folder in (toy, better)]
    return {
        one.fingerprint: one.reply([{"role": "user", "content": "你好"}], max_tokens=8, temperature=0) for one in found
    }


@pytest.fixture
def server(another):
    return another(engine=ENGINE, admin_key="over-there")


def versions(server, **body):
    path = "/v1/versions/verdict" if "keep" in body else "/v1/versions"
    reply = server.client.post(path, json=body, headers=ADMIN)
    assert reply.status_code == 200, reply.text
    return reply.json()["data"]


def said(server, oracles):
    """Which version answered; what it said is what that version says alone."""
    reply = server.chat().json()
    name = reply["system_fingerprint"]
    assert reply["choices"][0]["message"]["content"].strip() == oracles[name].text.strip()
    return name


def test_a_trial_gets_its_share_and_ends_with_either_version(server, better, oracles):
    first, second = oracles
    assert said(server, oracles) == first
    shown = versions(server, model=str(better), share=0.5)
    assert [one["system_fingerprint"] for one in shown] == [first, second] and shown[1]["share"] == 0.5
    assert {said(server, oracles) for _ in range(40)} == {first, second}  # one of them alone: once in 10^12 runs
    counts = [one["requests"] for one in server.client.get("/v1/versions", headers=ADMIN).json()["data"]]
    assert sum(counts) == 41 and min(counts) > 0
    versions(server, model=str(better), share=1.0)
    assert said(server, oracles) == second
    assert [one["system_fingerprint"] for one in versions(server, keep=False)] == [first]
    assert said(server, oracles) == first
    versions(server, model=str(better), share=0.0)
    assert said(server, oracles) == first
    assert [one["system_fingerprint"] for one in versions(server, keep=True)] == [second]
    assert said(server, oracles) == second
    slots = server.service.assistant.engine.config.max_sequences
    assert slots != ENGINE.max_sequences and f"glm_slots {slots}.0" in server.client.get("/metrics").text


def test_an_answer_is_finished_by_the_version_that_began_it(server, better, oracles):
    slowed(server, 0.05)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        running = pool.submit(said, server, oracles)
        while not server.service._by_number:
            time.sleep(0.005)
        versions(server, model=str(better), share=1.0)
        versions(server, keep=True)
        assert running.result() == next(iter(oracles))
    assert said(server, oracles) == list(oracles)[1]


def test_feedback_names_the_version_that_it_is_about(another, better, oracles, tmp_path):
    server = another(
        engine=ENGINE, admin_key="over-there", feedback=True, feedback_url=f"sqlite:///{tmp_path / 'f.db'}"
    )
    versions(server, model=str(better), share=1.0)
    about = said(server, oracles)
    row = {"conversation": "0" * 16, "kind": "up", "messages": [{"role": "user", "content": "x"}], "answer": "y"}
    server.client.post("/v1/feedback", json={**row, "system_fingerprint": about})
    server.client.post("/v1/feedback", json=row)
    kept = server.client.get(f"/v1/feedback/{'0' * 16}").json()["data"]
    assert [one["weights"] for one in kept] == [about, next(iter(oracles))]
    assert server.client.post("/v1/feedback", json={**row, "system_fingerprint": "../x"}).status_code == 400


def test_only_the_admin_key_opens_it(another, better):
    shut = another(engine=ENGINE)
    assert shut.client.get("/v1/versions").status_code == 403
    both = another(engine=ENGINE, api_key="for-users", admin_key="over-there")
    user = {"Authorization": "Bearer for-users"}
    for path in ("/v1/versions", "/v1/versions/verdict"):
        for headers in ({}, user, {"Authorization": "Bearer x"}):
            reply = both.client.post(path, json={"model": str(better), "keep": True}, headers=headers)
            assert reply.status_code == 401
    assert both.client.get("/v1/models", headers=ADMIN).status_code == 401
    assert both.client.get("/v1/models", headers=user).status_code == 200
    assert len(both.client.get("/v1/versions", headers=ADMIN).json()["data"]) == 1


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"model": "nano"}, 400, "another tokenizer"),
        ({"model": "/nowhere/at/all"}, 400, "/nowhere/at/all"),
        ({"model": "x", "share": 1.5}, 400, "share"),
        ({"model": ""}, 400, "model"),
        ({"keep": True}, 409, "no version is on trial"),
    ],
)
def test_what_cannot_be_is_said_and_changes_nothing(server, oracles, body, status, words):
    path = "/v1/versions/verdict" if "keep" in body else "/v1/versions"
    reply = server.client.post(path, json=body, headers=ADMIN)
    assert reply.status_code == status and words in reply.json()["error"]["message"]
    assert said(server, oracles) == next(iter(oracles))
