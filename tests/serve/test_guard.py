"""What is refused, and how: names, origins, keys, types, sizes, odd values. Nothing that a client sends is a 5xx or harms the next request."""

import ast
import base64
import contextlib
import copy
import hmac
import json
import os
import random
import socket
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from helpers.live import start_server

import openglm.serve
from openglm.cli.main import main
from openglm.serve import app
from openglm.serve.config import ServeConfig
from openglm.serve.schemas import ChatGLMRequest, CompletionRequest, EmbeddingRequest, InfillRequest

GOOD = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}


def raw(server, request: bytes, size: int = 65536) -> bytes:
    """Send bytes as they are; returns what comes back until the connection closes or rests."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as line:
        try:
            line.sendall(request)
            return line.recv(size)
        except (ConnectionError, TimeoutError):
            return b""


@pytest.mark.parametrize("host,status", [
    ("127.0.0.1", 200), ("localhost:8000", 200), ("LOCALHOST", 200), ("[::1]:80", 200), ("192.168.1.7", 200), ("evil.test", 403), ("127.0.0.1.evil.test", 403),
    ("localhost@evil.test", 403), ("", 403), ("localhost/x", 403), ("a:b:c", 403), ("[::1", 403), ("localhost:99999999", 403), ("\xff", 403),
    ("127.0.0.1\\@evil.test", 403), ("127.0.0.1 evil.test", 403), ("me:x@127.0.0.1", 403), ("evil.test\\127.0.0.1", 403),
])  # fmt: skip
def test_only_known_names_are_answered(live, host, status):
    assert live.client.get("/v1/models", headers={"Host": host.encode("latin-1")}).status_code == status


@pytest.mark.parametrize(
    "origin,status", [("null", 403), ("http://evil.test", 403), ("http://127.0.0.1:1", 403), ("SAME", 200), (None, 200)]
)
def test_pages_of_other_origins_get_nothing(live, origin, status):
    headers = {} if origin is None else {"Origin": live.url if origin == "SAME" else origin}
    answer = live.client.post("/v1/completions", json={"prompt": "a", "max_tokens": 1}, headers=headers)
    assert answer.status_code == status and not any(name.startswith("access-control") for name in answer.headers)
    assert (
        live.client.options(
            "/v1/completions", headers={**headers, "Access-Control-Request-Method": "POST"}
        ).headers.get("access-control-allow-origin")
        is None
    )


@pytest.fixture(scope="module")
def keyed(another):
    return another(api_key="correct-horse", feedback=False, page=True)


def routes(app, prefix=""):
    for route in app.routes:
        path = prefix + (getattr(route, "path", None) or "")
        yield path
        for below in (
            getattr(route, "app", None),
            getattr(getattr(route, "app", None), "app", None),
            getattr(route, "original_router", None),
        ):
            yield from routes(below, path) if hasattr(below, "routes") else ()


def test_every_route_needs_the_key_unless_listed(keyed):
    found = {
        path.replace("{path:path}", "x").replace("{name}", "toy").replace("//", "/") for path in routes(keyed.app.app)
    }
    assert {"/v1/models", "/metrics", "/infill", "/openapi.json"} <= found
    for path in sorted(found | {"/", "/nowhere", "/gradio_api/queue/join"}):
        for method in ("GET", "POST"):
            status = keyed.client.request(
                method, path, headers={"Content-Type": "application/json"}, content=b"{}" if method == "POST" else None
            ).status_code
            assert status == 401 or (path == "/health" and status == (200 if method == "GET" else 405)), (method, path)


@pytest.mark.parametrize("value,status", [
    (b"Bearer correct-horse", 200), (b"bearer correct-horse", 200), (b"Basic " + base64.b64encode(b"me:correct-horse"), 200), (b"Bearer wrong", 401), (b"Bearer", 401),
    (b"", 401),
    (b"correct-horse", 401), (b"Bearer \xe5\xaf\x86", 401), (b"Basic !!!", 401), (b"Basic " + base64.b64encode(b"correct-horse"), 401), (b"Bearer " + b"k" * 30000, 401),
    (b"Digest correct-horse", 401), (b"Bearer correct-horsE", 401),
])  # fmt: skip
def test_keys(keyed, value, status):
    answer = keyed.client.get("/v1/models", headers={"Authorization": value})
    assert answer.status_code == status
    if status == 401:
        assert answer.json()["error"]["code"] == "invalid_api_key" and "www-authenticate" in answer.headers


def test_a_bad_host_never_skips_the_key(keyed):
    for host in (b"", b"/health", b"localhost/health", b"x:y"):
        answer = raw(keyed, b"GET /v1/models HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n")
        assert answer.split(b" ")[1] in (b"400", b"401", b"403")


def test_nothing_from_outside_is_unpickled_rendered_or_run():
    """No module that could is imported by the server, and Gradio's ways to other hosts are not used."""
    for path in Path(openglm.serve.__file__).parent.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {
            alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
        }
        names |= {(node.module or "").split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        assert names.isdisjoint({"pickle", "dill", "marshal", "shelve", "jinja2", "subprocess", "torch"}), path
        assert calls.isdisjoint({"eval", "exec", "compile", "gr.load", "gr.Interface", "os.system"}), path
        assert not any(
            keyword.arg == "share" for node in ast.walk(tree) if isinstance(node, ast.Call) for keyword in node.keywords
        ), path


def test_who_opens_the_port_to_others_without_a_key_is_warned(assistant, monkeypatch, capsys):
    class Never(app.Server):
        def run(self, sockets=None):
            self.started = True

    monkeypatch.setattr(app, "Server", Never)
    for host, key, warned in (
        ("127.0.0.1", "", False),
        ("localhost", "", False),
        ("::1", "", False),
        ("0.0.0.0", "", True),
        ("::", "", True),
        ("0.0.0.0", "k", False),
    ):
        assert app.serve(assistant, ServeConfig(host=host, api_key=key, page=False, feedback=False), "toy", None) == 0
        assert ("no --api-key" in capsys.readouterr().err) is warned, host
    assert ServeConfig().host == "127.0.0.1"


def test_an_address_that_cannot_be_had_is_one_line_before_a_model_is_loaded(live, capsys):
    for host, port in (("127.0.0.1", live.port), ("256.1.1.1", 0), ("no.such.host.invalid", 0)):
        assert main(["serve", "/no/such/model", "--host", host, "--port", str(port)]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "host, port" in error and host in error


def test_nothing_but_a_comparison_in_constant_time_decides_about_a_key(keyed, monkeypatch):
    """Its two sides have one length, whatever was sent, and what it says is what is done."""
    compared = []
    for verdict, status in ((True, 200), (False, 401)):
        monkeypatch.setattr(
            hmac, "compare_digest", lambda one, other, verdict=verdict: compared.append((one, other)) or verdict
        )
        for key in ("correct-horse", "correct-horsE", "c", "k" * 5000):
            answer = keyed.client.get("/v1/models", headers={"Authorization": f"Bearer {key}"})
            assert answer.status_code == status, key
    assert len(compared) == 8 and len({len(side) for pair in compared for side in pair}) == 1


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "",
        "application/json" * 500,
    ],
)
def test_only_json_is_read(live, kind):
    body = b"&".join(b"a%d=1" % i for i in range(10_000)) if "form" in kind else json.dumps(GOOD).encode()
    assert live.client.post("/v1/chat/completions", content=body, headers={"Content-Type": kind}).status_code == 415


def test_sizes_are_bounded(live):
    assert (
        live.client.post(
            "/v1/completions", content=b"x" * (live.config.max_body + 1), headers={"Content-Type": "application/json"}
        ).status_code
        == 413
    )
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    assert b" 413 " in raw(live, head + b"Content-Length: 99999999999\r\n\r\n{").split(b"\r\n")[0]
    assert raw(live, head + b"Content-Length: 1" + b"0" * 4000 + b"\r\n\r\n{")[9:12] in (b"400", b"413")
    answer = raw(live, b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 1_000_000 + b"\r\n\r\n")
    assert answer[9:12] in (b"400", b"431", b"")
    assert (
        live.client.get("/metrics", headers={"Range": "bytes=" + ",".join("0-1" for _ in range(5000))}).status_code
        == 200
    )
    assert live.client.get("/health").status_code == 200


@pytest.mark.parametrize("body", [
    b"", b"{", b"[]", b"null", b"1", b'"x"', b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe", b'{"messages": NaN}', b'{"messages":[{"role":"user","content":"\\ud800"}]}',
])  # fmt: skip
def test_bodies_that_are_no_requests(live, body):
    answer = live.client.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400 and answer.json()["error"]["type"] == "invalid_request_error"


NUMBERS = ["max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "min_p", "n", "seed", "top_logprobs"]
NUMBERS += ["frequency_penalty", "presence_penalty", "repetition_penalty"]
FIT = {(field, "1.5") for field in ("temperature", "repetition_penalty", "frequency_penalty", "presence_penalty")}
FIT |= {(field, "-1") for field in ("seed", "frequency_penalty", "presence_penalty")}
FIT |= {(field, "-1") for field in ("max_tokens", "max_completion_tokens", "top_k")}  # no limit
ODD = ["-1", "-9223372036854775809", "9223372036854775808", "1e308", "1e999", "-1e308", "NaN", "Infinity", "-Infinity"]
ODD += ["true", '"1"', "[]", "{}", "1.5", '"\\u0000"', "1" + "0" * 400]


@pytest.mark.parametrize("field", NUMBERS)
def test_odd_numbers_are_400_and_name_the_field(live, field):
    for value in ODD:
        whole = json.dumps(GOOD)[:-1] + f', "{field}": {value}}}'
        answer = live.client.post("/v1/chat/completions", content=whole, headers={"Content-Type": "application/json"})
        if (field, value) in FIT:
            assert answer.status_code == 200, (field, value, answer.text)
        else:
            assert answer.status_code == 400 and answer.json()["error"]["param"] == field, (field, value, answer.text)


BODIES = {
    "/v1/completions": ({"prompt": "a", "max_tokens": 1}, CompletionRequest),
    "/infill": ({"n_predict": 1}, InfillRequest),
}
BODIES |= {
    "/": ({"prompt": "a", "max_length": 9}, ChatGLMRequest),
    "/v1/embeddings": ({"input": "a"}, EmbeddingRequest),
}
EVERY = [
    (path, name)
    for path, (_, model) in BODIES.items()
    for name, field in model.model_fields.items()
    if any(kind in str(field.annotation) for kind in ("int", "float"))
]


# Of the odd values these fit: a temperature of 1.5, a penalty below 0, any seed, texts of one character, no bias, llama.cpp's "no limit" (-1).
# This server has no embedder, so it takes nothing for one.
TAKEN = {
    "/v1/completions": {("prompt", '"1"'), ("prompt", '"\\u0000"'), ("logit_bias", "{}"), *FIT},
    "/infill": {("temperature", "1.5"), ("seed", "-1"), ("n_predict", "-1"), ("top_k", "-1")},
    "/": {("temperature", "1.5")},
    "/v1/embeddings": set(),
}


@pytest.mark.parametrize("path,field", EVERY)
def test_odd_numbers_in_every_other_body(live, path, field):
    """Each is within what the field takes, or is refused by its name; what is no number at all is never taken for one."""
    for value in ODD:
        whole = json.dumps(BODIES[path][0] | {field: "VALUE"}).replace('"VALUE"', value)
        answer = live.client.post(path, content=whole, headers={"Content-Type": "application/json"})
        if (field, value) in TAKEN[path]:
            assert answer.status_code == 200, (field, value, answer.text)
        else:
            assert answer.status_code == 400, (field, value, answer.text)
            assert answer.json()["error"]["param"].startswith(field), (field, value, answer.text)


@pytest.mark.parametrize("fields,param", [
    ({"messages": []}, "messages"), ({"messages": [{"role": "king", "content": ""}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"), ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"stop": 3}, "stop"), ({"stop": ["a"] * 17}, "stop"), ({"stop": ["a", 3]}, "stop[1]"), ({"stream": "yes"}, "stream"), ({"n": 17}, "n"),
    ({"tools": [{"type": "function"}]}, "tools[0].function"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"), ({"tool_choice": "required"}, "tool_choice"),
    ({"logit_bias": {"x": 1}}, "logit_bias.x"),
    ({"logit_bias": {"99999": 1}}, "logit_bias"), ({"chat_template": "{{ cycler.__init__.__globals__.os }}"}, "chat_template"),
    ({"chat_template_kwargs": {"a": 1}}, "chat_template_kwargs"),
    ({"prompt_embeds": "gASV"}, "prompt_embeds"), ({"logits_processors": ["os.system"]}, "logits_processors"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"messages": [{"role": "user", "content": "long" * 500}]}, "messages"),
])  # fmt: skip
def test_wrong_values_name_their_field(live, fields, param):
    answer = live.client.post("/v1/chat/completions", json={**GOOD, **fields})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


def bad_schemas():
    deep = {"type": "object"}
    for _ in range(300):
        deep = {"type": "object", "properties": {"a": deep}, "required": ["a"]}
    yield from (deep, {"type": "king"}, {"type": 3}, {"$ref": "#/nowhere"}, {"$ref": "http://127.0.0.1/x"})
    yield from ({"pattern": "(", "type": "string"}, {"type": "string", "pattern": "(?=a)"})
    yield from (
        {"type": "string", "pattern": "(a|a?)+" * 50},
        {"type": "string", "pattern": "(x{1000}){1000}"},
        {"enum": []},
    )
    yield from ({"type": "array", "minItems": -1}, {"allOf": [False]})
    yield from (
        {"type": "string", "minLength": 9, "maxLength": 1},
        {"not": {}},
        {"properties": []},
        {"type": "object", "required": "a"},
        {"oneOf": 3},
        {"const": "\x00"},
    )
    yield from (
        {"type": "object", "properties": {f"p{i}": {"enum": list(range(50))} for i in range(500)}},
        {"minimum": "x", "type": "number"},
    )
    yield {"type": "integer", "multipleOf": 0}


def mutated_schemas(count: int):
    """Good schemas with something in them replaced by what does not belong there."""
    dice = random.Random(5)
    odd = [
        None,
        -1,
        1e308,
        2**70,
        "",
        "\x00",
        "(",
        "[",
        "(a*)*b",
        "x" * 5000,
        [],
        {},
        [[]],
        {"$ref": "#"},
        {"type": "king"},
        True,
        "#/$defs/a",
    ]
    odd += [{"anyOf": []}, [{"not": {}}], {"const": None}]
    keys = ["type", "properties", "items", "enum", "pattern", "required", "minItems", "maxLength"]
    keys += ["minimum", "anyOf", "allOf", "$ref", "$defs", "format", "additionalProperties", "const"]
    for _ in range(count):
        schema = {
            "type": "object",
            "properties": {
                "a": {"type": "string", "pattern": "a+"},
                "b": {"type": "array", "items": {"type": "integer"}},
            },
            "required": ["a"],
        }
        for _ in range(dice.randint(1, 3)):
            inner = schema.get("properties")
            objects = [schema, inner, inner.get("a") if isinstance(inner, dict) else None]
            dice.choice([one for one in objects if isinstance(one, dict)])[dice.choice(keys)] = copy.deepcopy(
                dice.choice(odd)
            )
        yield schema


def test_bad_schemas_are_400_or_followed_and_the_next_request_is_answered(live):
    for number, schema in enumerate([*bad_schemas(), *mutated_schemas(200)]):
        for fields in (
            {
                "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}},
                "max_tokens": 1,
            },
            {
                "tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}],
                "tool_choice": "required",
                "max_tokens": 1,
            },
        )[: 2 if number < 40 else 1]:
            answer = live.client.post("/v1/chat/completions", json={**GOOD, **fields})
            assert answer.status_code in (200, 400), (number, schema, answer.text)
    assert live.service.healthy and live.client.post("/v1/chat/completions", json=GOOD).status_code == 200


@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="the system does not tell a process's memory this way"
)
def test_what_is_too_large_costs_no_memory(toy, tmp_path):
    """A process of its own, with one listening socket on this machine alone: bodies, forms, headers and ranges beyond all measure leave it as it was."""
    process, url = start_server(tmp_path / "said", toy, "--no-feedback")
    try:
        port = int(url.rpartition(":")[2])
        server = SimpleNamespace(port=port)
        assert listening(process.pid) == [("0100007F", port)]
        httpx.get(f"{url}/v1/models")
        before = resident(process.pid)
        json_head = {"Content-Type": "application/json"}
        chunks = (b"x" * (1 << 20) for _ in range(100))
        with contextlib.suppress(httpx.TransportError):  # it may hang up before all is sent
            assert httpx.post(f"{url}/v1/completions", content=chunks, headers=json_head).status_code == 413
        with contextlib.suppress(httpx.TransportError):
            assert httpx.post(f"{url}/v1/completions", content=b"x" * (100 << 20), headers=json_head).status_code == 413
        form = "&".join(f"a{i}=1" for i in range(100_000)).encode()
        assert (
            httpx.post(
                f"{url}/v1/completions", content=form, headers={"Content-Type": "application/x-www-form-urlencoded"}
            ).status_code
            == 415
        )
        ranges = (
            b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nRange: bytes="
            + b",".join(b"0-1" for _ in range(10_000))
            + b"\r\n\r\n"
        )
        assert raw(server, ranges)[9:12] in (b"200", b"400", b"431")
        assert raw(server, b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 1_000_000 + b"\r\n\r\n")[
            9:12
        ] in (b"400", b"431", b"")
        assert httpx.get(f"{url}/health").status_code == 200 and resident(process.pid) - before < 50 << 20
    finally:
        process.terminate()
        process.join(15)


def resident(process: int) -> int:
    return int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1]) * 4096


def listening(process: int) -> list[tuple[str, int]]:
    """Address, in the kernel's words, and port of each socket on which a process waits for connections."""
    links = [os.readlink(link) for link in Path(f"/proc/{process}/fd").iterdir() if link.is_symlink()]
    mine = {link[8:-1] for link in links if link.startswith("socket:[")}
    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text(encoding="ascii").splitlines()[1:]
    ]
    return [(row[1].split(":")[0], int(row[1].split(":")[1], 16)) for row in rows if row[3] == "0A" and row[9] in mine]


@pytest.mark.parametrize("path", [
    "/../../etc/passwd", "/..%2f..%2fetc/passwd", "/%00", "/v1/models/..%2f..%2fconfig.json", "/assets/../../../etc/passwd", "//etc/passwd", "/v1/models/%2e%2e",
])  # fmt: skip
def test_no_path_leads_to_a_file(keyed, path):
    line = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer correct-horse\r\nConnection: close\r\n\r\n".encode()
    answer = raw(keyed, line)
    assert answer[9:12] == b"404" and b"root:" not in answer


def test_web_sockets_are_refused(live):
    head = b"GET /gradio_api/queue/join HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: eA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    assert raw(live, head)[9:12] != b"101"
