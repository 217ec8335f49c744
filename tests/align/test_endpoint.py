"""Answers of a model behind OpenAI's interface: for rollouts with its log-probabilities, and for new instructions."""

import http.server
import json
import threading

import pytest
from helpers.tiny_runs import options

import openglm
from openglm.align.checks import CHECKS
from openglm.align.endpoint import Endpoint, Reply, token_ids
from openglm.align.online import grpo
from openglm.cli.main import main
from openglm.config import GRPOConfig, OptimizerConfig, PromptsConfig, RolloutConfig
from openglm.data.prompts import Prompt
from openglm.net import endpoint as module

ASKED = [{"role": "user", "content": "How are you today?"}]


class Model(http.server.BaseHTTPRequestHandler):
    """Says what the test wants; `server.script` may hold statuses to answer with first."""

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, self.headers.get("Authorization"), body))
        status = self.server.script.pop(0) if self.server.script else 200
        reply = self.server.reply(body) if status == 200 else {"error": {"message": "not now"}}
        raw = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)


@pytest.fixture
def far():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Model)
    server.asked, server.script = [], []
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def completion(text, tokens=None, reason="stop"):
    content = tokens and [{"token": "?", "bytes": list(raw), "logprob": logprob} for raw, logprob in tokens]
    logprobs = {"content": content} if tokens else None
    return {"choices": [{"message": {"content": text}, "logprobs": logprobs, "finish_reason": reason}]}


def spelled(tokenizer, ids, value=-1.0):
    return [(tokenizer.decode_bytes([token]), value) for token in ids]


def test_an_answer_becomes_the_tokens_that_tuning_would_train(toy):
    tokenizer = openglm.load_tokenizer(toy)
    prompt, text = Prompt(ASKED), "I am fine, thank you."
    asked, _ = tokenizer.render(ASKED, generation_prompt=True)
    whole, trained = tokenizer.render([*ASKED, {"role": "assistant", "content": text}])
    answer = whole[len(asked) :]
    assert sum(trained) == len(answer), "the text and the token that ends it"
    tokens = spelled(tokenizer, answer[:-1])
    known = [-1.0] * len(tokens)
    assert token_ids(tokenizer, prompt, asked, Reply(text, True, tokens), 64) == (answer, [*known, None], True)
    assert token_ids(tokenizer, prompt, asked, Reply(text, False, tokens), 64) == (answer[:-1], known, False)
    assert token_ids(tokenizer, prompt, asked, Reply(text, True, tokens), 3) == (answer[:3], known[:3], False)
    other = [(text.encode(), -1.0)]  # cut into tokens by another vocabulary
    for given in (other, []):
        assert token_ids(tokenizer, prompt, asked, Reply(text, True, given), 64) == (answer, [None] * len(answer), True)


def config_of(toy, far, tmp_path, **rollout):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(
        "".join(json.dumps({"prompt": f"{i}: {ASKED[0]['content']}", "answer": "x"}) + "\n" for i in range(4))
    )
    given = {
        "check": "exact",
        "questions": 4,
        "group": 2,
        "max_tokens": 32,
        "endpoint": far.url,
        "endpoint_model": "there",
    }
    return GRPOConfig(
        init_from=str(toy),
        data=PromptsConfig(prompts=str(prompts)),
        train=options(tmp_path / "run", seq_len=96, steps=1, accumulation=1, save_every=1, log_every=1),
        rollout=RolloutConfig(**given, **rollout),
        optimizer=OptimizerConfig(lr=1e-3, schedule="constant", warmup_ratio=0),
    )


def test_rollouts_are_drawn_there_and_weighed_by_what_it_says_of_them(toy, far, tmp_path, monkeypatch, capsys):
    tokenizer = openglm.load_tokenizer(toy)
    monkeypatch.setitem(CHECKS, "exact", lambda _, answer: float("fine" in answer))
    monkeypatch.setenv("OPENAI_API_KEY", "sesame")
    texts = ["I am fine.", "The cat sat on the mat."]

    def reply(body):
        assert body["temperature"] == body["top_p"] == 1 and body["logprobs"] is True and body["max_tokens"] == 32
        text = texts[body["seed"] % 2]
        return completion(text, spelled(tokenizer, tokenizer.encode(text), -2.5) if "fine" in text else None)

    far.reply = reply
    grpo(config_of(toy, far, tmp_path))
    assert len(far.asked) == 8 and {asked[:2] for asked in far.asked} == {("/v1/chat/completions", "Bearer sesame")}
    assert {body["model"] for *_, body in far.asked} == {"there"} and len({body["seed"] for *_, body in far.asked}) == 8
    kept = json.loads((tmp_path / "run" / "round.json").read_text())
    silent = 0
    for answer, drawn, trainer in zip(kept["answers"], kept["sampler_logp"], kept["old_logp"], strict=True):
        assert answer["finished"] and tokenizer.decode(answer["ids"][:-1]).strip() == answer["text"]
        if "fine" in answer["text"]:
            assert drawn[:-1] == [-2.5] * (len(drawn) - 1) and drawn[-1] == trainer[-1] and answer["reward"] == 1
        else:
            assert drawn == trainer
            silent += 1
    assert f"{silent} of 8 answers came without log-probabilities" in capsys.readouterr().err


def test_a_reward_that_is_no_number_ends_the_run_in_one_line(toy, far, tmp_path, monkeypatch):
    monkeypatch.setitem(CHECKS, "exact", lambda *_: float("nan"))
    far.reply = lambda body: completion("I am fine.")
    with pytest.raises(ValueError, match=r"rollout = nan: is the reward of 'I am fine.'; rewards must be finite"):
        grpo(config_of(toy, far, tmp_path))


def test_a_busy_endpoint_is_asked_again_and_others_are_quoted(far, monkeypatch):
    monkeypatch.setattr(module, "_PAUSES", (0.01, 0.01))
    far.reply = lambda body: completion("yes", reason="length")
    far.script = [503, 429]
    assert Endpoint(far.url).ask([{"messages": ASKED}]) == [Reply("yes", False, [])]
    assert len(far.asked) == 3 and "model" not in far.asked[0][2]
    for script, words in (([404], "status 404: .*not now"), ([503] * 3, "status 503")):
        far.script = script
        with pytest.raises(ValueError, match=words) as error:
            Endpoint(far.url).ask([{"messages": ASKED}])
        assert "\n" not in str(error.value)
    far.reply = lambda body: {"choices": []}
    with pytest.raises(ValueError, match="status 200: "):
        Endpoint(far.url).ask([{"messages": ASKED}])


def test_new_instructions_come_from_there(far, tmp_path, capsys):
    seeds, out = tmp_path / "seeds.jsonl", tmp_path / "out.jsonl"
    texts = ["Name three colours of the rainbow.", "Explain why the sky is blue."]
    seeds.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts), encoding="utf-8")

    def reply(body):
        asks = "go on with the numbers" in body["messages"][0]["content"]
        return completion("3. Describe a violin in two sentences." if asks else "It has four strings.")

    far.reply = reply
    command = ["data", "self-instruct", "--seeds", str(seeds), "--to", str(out), "--count", "1", "--json"]
    assert main([*command, "--endpoint", far.url, "--model", "there"]) == 0
    assert json.loads(out.read_text()) == {
        "prompt": "Describe a violin in two sentences.",
        "response": "It has four strings.",
    }
    assert json.loads(capsys.readouterr().out)["records"] == 1 and far.asked[0][2]["model"] == "there"
    assert main([*command[:-1], "--endpoint", "http://127.0.0.1:9/v1", "--count", "2"]) == 1
    assert "127.0.0.1:9" in capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"temperature": 0.7}, "rollout.temperature = 0.7: must be 1"),
        ({"quantize": "int8"}, "rollout.quantize = 'int8': belongs to our own draw"),
    ],
)
def test_what_an_endpoint_cannot_do_is_refused(toy, far, tmp_path, changes, words):
    with pytest.raises(ValueError, match=words):
        config_of(toy, far, tmp_path, **changes)
