"""A server under test: ours gives what the model gives in this process; a bad one leaves answers missing and no average."""

import http.server
import json
import threading
from pathlib import Path

import pytest
from helpers.live import Live

import openglm.net.endpoint as posts
from openglm.assistant import Assistant
from openglm.cli.main import main
from openglm.config import EngineConfig
from openglm.evaluation.endpoint import EndpointModel
from openglm.evaluation.models import EngineModel, Query, Writing
from openglm.evaluation.run import Options, evaluate
from openglm.evaluation.tasks import TASKS

QUERIES = [
    Query("The cat sat on the", " mat"), Query("The cat sat on the", " mat, and the dog"), Query("The cat ", "sat"),
    Query("床前明月", "光"), Query("床前明月", "光，疑是地上霜"), Query("How are you", " today? I am fine"),
]  # fmt: skip
QUESTIONS = [
    {"question": f"How are you {n}?", "options": "A. fine\nB. the cat\nC. 明月光", "answer": "A. fine"}
    for n in range(8)
]


@pytest.fixture(scope="module")
def served(toy):
    server = Live(Assistant(toy, device="cpu", engine=EngineConfig(max_sequences=4, block_size=4)))
    yield f"{server.url}/v1"
    server.stop()


@pytest.fixture(scope="module")
def here(toy):
    """The model of the server, reading from left to right, as an echo does."""
    return EngineModel(Assistant(toy, device="cpu").engine, forward=True)


@pytest.fixture
def data(tmp_path):
    (tmp_path / "openbookqa").mkdir()
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in QUESTIONS)
    (tmp_path / "openbookqa" / "test.jsonl").write_text(lines, encoding="utf-8")
    return tmp_path


def test_likelihoods_of_our_server_are_those_of_its_model(served, here):
    """But where a token reaches from the prompt into the answer, which lm-eval, and we here, cut in two."""
    theirs, mine = dict(EndpointModel(served, "toy").likelihoods(QUERIES)), dict(here.likelihoods(QUERIES))
    encode, compared = here.tokenizer.encode, 0
    for number, (before, answer, *_) in enumerate(QUERIES):
        left = encode(before.rstrip())
        if encode(before + answer)[: len(left)] == left:
            assert theirs[number].logprob == pytest.approx(mine[number].logprob, abs=1e-4), QUERIES[number]
            assert theirs[number].greedy == mine[number].greedy
            compared += 1
    assert compared >= 4 and any("月" in QUERIES[n].before for n in theirs)


def test_blanks_that_our_server_fills_are_those_of_its_model(served, here):
    asked = [Writing("The cat", " on the mat", max_tokens=6), Writing("床前", "光，疑是地上霜", max_tokens=9)]
    assert dict(EndpointModel(served, "toy").write(asked)) == dict(here.write(asked))


def test_a_tasks_scores_are_equal_over_the_server(served, here, data):
    figures = [
        evaluate(model, "x", TASKS["openbookqa"], Options(data)) for model in (EndpointModel(served, "toy"), here)
    ]
    assert figures[0]["scores"] == figures[1]["scores"] and figures[0]["letters"] == figures[1]["letters"]


class Faulty(http.server.BaseHTTPRequestHandler):
    """Answers as `faults` says of the requests with the same prompt, one after another; the last one for ever. never:
    question 1 gets no answer at all."""

    faults = ("answer",)
    asked: dict[str, int]

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["prompt"]
        count = self.asked.get(prompt, 0)
        self.asked[prompt] = count + 1
        odd = "never" in self.faults and "1?" in prompt
        faults = [fault for fault in self.faults if fault != "never"]
        fault = "busy" if odd else faults[min(count, len(faults) - 1)]
        if fault == "drop":
            self.connection.close()
            return
        text = {"answer": json.dumps(_echo(prompt)), "garbage": "<html>", "hollow": json.dumps({"choices": []})}
        said = text.get(fault, "busy").encode()
        self.send_response(503 if fault == "busy" else 200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_):
        pass


class Crowded(http.server.ThreadingHTTPServer):
    request_queue_size = 64


def _echo(prompt):
    logprobs = {"text_offset": [0, 4], "token_logprobs": [None, -1.0], "top_logprobs": [None, {"x": -1.0}]}
    return {"choices": [{"text": "    return 1\n", "logprobs": {**logprobs, "text_offset": [0, len(prompt) - 1]}}]}


@pytest.fixture
def faulty(monkeypatch):
    monkeypatch.setattr(posts, "_PAUSES", (0.01, 0.01, 0.01))
    servers = []

    def start(*faults):
        handler = type("Handler", (Faulty,), {"faults": faults, "asked": {}})
        server = Crowded(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}/v1", handler.asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("faults", [("busy", "answer"), ("drop", "answer"), ("busy", "drop", "busy", "answer")])
def test_busy_and_broken_connections_are_asked_again(faults, faulty, data):
    url, asked = faulty(*faults)
    found = evaluate(EndpointModel(url), "x", TASKS["openbookqa"], Options(data))
    assert not found["missing"] and found["value"] is not None
    assert set(asked.values()) == {len(faults)}


@pytest.mark.parametrize("faults", [("garbage",), ("hollow",), ("drop",), ("busy",)])
def test_what_is_no_answer_is_missing(faults, faulty, data):
    url, _ = faulty(*faults)
    found = evaluate(EndpointModel(url), "x", TASKS["openbookqa"], Options(data))
    assert found["missing"] == list(range(8)) and found["value"] is None


def test_missing_questions_are_named_and_there_is_no_average(faulty, data, tmp_path, capsys):
    """Then a server that answers: only what is missing is asked for, and there is an average."""
    url, _ = faulty("never", "answer")
    argv = ["eval", url, "--tasks", "openbookqa", "--data", str(data), "--out", str(tmp_path / "out")]
    assert main(argv) == 1
    shown = capsys.readouterr()
    assert "openbookqa: 1;" in shown.err and "none: answers are missing" in shown.out
    saved = json.loads(Path(tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert saved["tasks"]["openbookqa"]["value"] is None


def test_a_program_that_the_server_failed_to_give_is_no_failure(faulty, tmp_path):
    (tmp_path / "humaneval").mkdir()
    row = {"entry_point": "one", "canonical_solution": "    return 1\n", "test": "def check(f):\n    assert f() == 1\n"}
    rows = [{"task_id": f"HumanEval/{n}", "prompt": f"def one():  # {n}?\n", **row} for n in range(2)]
    (tmp_path / "humaneval" / "HumanEval.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    url, _ = faulty("never", "answer")
    found = evaluate(EndpointModel(url), "x", TASKS["humaneval"], Options(tmp_path))
    assert found["scores"] == [1.0, None] and found["missing"] == [1] and found["value"] is None
