"""What is acknowledged is kept, what is deleted is gone, and pairs say which answer beat which."""

import json
import os
import signal
import sqlite3
import threading

import httpx
import orjson
import pytest
from helpers.live import start_server

from openglm.cli.main import main
from openglm.serve.feedback import Feedback

ASKED = [{"role": "user", "content": "你好"}]
ID = "0123456789abcdef"


def row(kind, answer, better=None, messages=ASKED, conversation=ID, reason=None):
    return {
        "conversation": conversation,
        "kind": kind,
        "messages": messages,
        "answer": answer,
        "better": better,
        "reason": reason,
    }


@pytest.fixture
def store(tmp_path):
    keep = Feedback(f"sqlite:///{tmp_path / 'f.db'}")

    def add(*args, **more):
        return keep.add(**row(*args, **more), sampling={}, model="toy", weights="w")

    keep.put = add
    return keep


def pairs(store):
    return {(p["chosen"][0]["content"], p["rejected"][0]["content"]) for p in store.pairs()}


def test_pairs(store):
    store.put("edit", "bad", "good")
    store.put("retry", "first", "second")
    store.put("retry", "one", "two")
    store.put("down", "two")
    store.put("up", "nice")
    store.put("up", "bad2"), store.put("down", "bad2")  # the later judgement counts
    store.put("up", "elsewhere", messages=[{"role": "user", "content": "other"}])
    assert pairs(store) == {("good", "bad"), ("second", "first"), ("nice", "two"), ("nice", "bad2")}


def test_judgements_that_contradict_each_other_make_no_pair(store):
    store.put("edit", "a", "b"), store.put("edit", "b", "a"), store.put("edit", "c", "c")
    assert pairs(store) == set()


def test_rows_are_plain_for_every_writer_of_json(store):
    """Gradio's refuses names that are not exactly `str`, and then the page does not show what is stored."""
    store.put("up", "a")
    (row_,) = store.of(ID)
    assert {type(name) for name in row_} == {str} and orjson.loads(orjson.dumps(row_))["kind"] == "up"


def test_the_route_keeps_shows_and_forgets(another, tmp_path):
    server = another(feedback=True, feedback_url=f"sqlite:///{tmp_path / 'f.db'}")
    body = {**row("edit", "bad", "<script>'; DROP TABLE feedback; --"), "sampling": {"temperature": 0.5, "seed": None}}
    assert server.client.post("/v1/feedback", json=body).json() == {"id": 1}
    server.client.post("/v1/feedback", json=row("up", "x", conversation="f" * 16))
    (kept,) = server.client.get(f"/v1/feedback/{ID}").json()["data"]
    assert (kept["better"], kept["messages"], kept["sampling"]) == (body["better"], ASKED, body["sampling"])
    assert kept["weights"] == server.service.assistant.fingerprint and kept["model"] == "toy"
    for wrong in (
        {"kind": "up"},
        {"kind": "king"},
        {"conversation": "short"},
        {"conversation": "../" * 8},
        {"reason": "x" * 5000},
        {"messages": []},
        {"sampling": {"a": [1]}},
    ):
        assert server.client.post("/v1/feedback", json={**body, **wrong}).status_code == 400
    assert server.client.delete(f"/v1/feedback/{ID}").json() == {"deleted": 1} and server.client.get(
        f"/v1/feedback/{ID}"
    ).json() == {"data": []}
    assert len(server.client.get(f"/v1/feedback/{'f' * 16}").json()["data"]) == 1
    assert another(feedback=False).client.post("/v1/feedback", json=body).status_code == 404


def test_export_writes_pairs_and_says_how_many(store, tmp_path, capsys):
    store.put("edit", "坏", "好")
    assert (
        main(["data", "feedback", "--to", str(tmp_path / "out.jsonl"), "--url", str(store.engine.url), "--json"]) == 0
    )
    assert json.loads(capsys.readouterr().out) == {"pairs": 1}
    line = {
        "prompt": ASKED,
        "chosen": [{"role": "assistant", "content": "好"}],
        "rejected": [{"role": "assistant", "content": "坏"}],
    }
    assert [json.loads(text) for text in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()] == [line]


@pytest.mark.parametrize("url", ["nonsense", "king://x", "sqlite:////no/such/folder/f.db"])
def test_a_data_base_that_cannot_be_opened_is_one_line(url, capsys, tmp_path):
    assert main(["data", "feedback", "--to", str(tmp_path / "x"), "--url", url]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "feedback_url" in error


def test_a_killed_server_has_kept_all_that_it_acknowledged(toy, tmp_path):
    file = tmp_path / "f.db"
    process, url = start_server(tmp_path / "said", toy, "--page", "--feedback-url", f"sqlite:///{file}")
    acknowledged, lock = [], threading.Lock()

    def write(writer):
        with httpx.Client() as client:
            for number in range(10_000):
                try:
                    client.post(f"{url}/v1/feedback", json=row("up", f"{writer}-{number}")).raise_for_status()
                except httpx.TransportError:
                    return
                with lock:
                    acknowledged.append(f"{writer}-{number}")
                    if len(acknowledged) == 40:
                        os.kill(process.pid, signal.SIGKILL)

    writers = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for one in writers:
        one.start()
    for one in writers:
        one.join()
    process.join()
    assert len(acknowledged) >= 40 and set(acknowledged) <= {r["answer"] for r in Feedback(f"sqlite:///{file}")}
    with sqlite3.connect(file) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
