"""The server where it really stands: behind proxies, under other names and paths, on a socket file, without a home; as it is by default, with its page."""

import os
import signal
import threading
from pathlib import Path

import httpx
import pytest
from helpers.live import Live, start_server
from helpers.processes import until

from openglm.runtime import cache_folder, data_folder
from openglm.serve import app
from openglm.serve.config import ServeConfig

SITE = "https://chat.example.com"


@pytest.fixture(scope="module")
def paged(assistant):
    """By default, but for the port and the place of feedback."""
    server = Live(assistant, page=True, aliases=("THUDM/glm-4", "gpt-4o"), origins=(SITE,), root_path="/glm")
    yield server
    server.stop()


def ask(server, **headers):
    body = {"prompt": "a", "max_tokens": 1}
    return server.client.post("/v1/completions", json=body, headers={name.replace("_", "-"): value for name, value in headers.items()})  # fmt: skip


def test_pages_of_allowed_origins_may_ask_and_read(paged):
    preflight = {"Origin": SITE, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}  # fmt: skip
    answer = paged.client.options("/v1/chat/completions", headers=preflight)
    assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == SITE
    assert "authorization" in answer.headers["access-control-allow-headers"].lower()
    assert ask(paged, Origin=SITE).headers["access-control-allow-origin"] == SITE
    for other in ("https://chat.example.com.evil.test", "http://chat.example.com", "null", SITE + ":444"):
        assert ask(paged, Origin=other).status_code == 403
        refused = paged.client.options("/v1/chat/completions", headers={**preflight, "Origin": other})
        assert refused.status_code == 400 and "access-control-allow-origin" not in refused.headers


def test_every_origin_may_ask_where_the_owner_says_so(another):
    server = another(origins=("*",))
    assert ask(server, Origin="http://any.test").headers["access-control-allow-origin"] == "*"


def test_a_proxy_that_does_not_pass_the_name_on(another, paged):
    """As nginx does by default: the browser's own word decides, or the name that the owner gave."""
    assert ask(paged, Origin="https://other.example.com", Sec_Fetch_Site="same-origin").status_code == 200
    assert ask(paged, Origin="https://other.example.com", Sec_Fetch_Site="cross-site").status_code == 403
    named = another(hosts=("Chat.Example.com",))
    assert ask(named, Origin=SITE).status_code == 200
    assert ask(named, Origin=SITE, Host="chat.example.com").status_code == 200


def test_the_page_asks_where_the_browser_found_it(paged):
    """Nothing in it names the address behind the proxy."""
    text = paged.client.get("/").text
    assert str(paged.port) not in text and "here.invalid" not in text and "location.origin" in text


def test_a_path_before_all_others_may_be_kept_or_taken_away(paged):
    for path in ("/v1/models", "/health", "/", "/docs", "/openapi.json"):
        plain, under = paged.client.get(path), paged.client.get(f"/glm{path}")
        assert plain.status_code == under.status_code == 200 and plain.text == under.text
    assert paged.client.get("/openapi.json").json()["servers"] == [{"url": "/glm"}]
    assert paged.client.get("/glmx/health").status_code == 404


def test_the_key_is_asked_for_under_the_path_too(another):
    server = another(api_key="k", admin_key="a", root_path="glm")
    for path in ("/glm/v1/models", "/glm/v1/versions", "/v1/versions"):
        assert server.client.get(path).status_code == 401
        key = "a" if "versions" in path else "k"
        assert server.client.get(path, headers={"x-api-key": key}).status_code == 200
        assert server.client.get(path, headers={"x-api-key": "no", "Authorization": f"Bearer {key}"}).status_code == 401


@pytest.mark.parametrize(
    "method,path,status,allow",
    [
        ("HEAD", "/health", 200, None),
        ("HEAD", "/v1/models", 200, None),
        ("HEAD", "/", 200, None),
        ("GET", "/v1/chat/completions", 405, "POST"),
        ("DELETE", "/v1/models", 405, "GET"),
        ("PUT", "/", 405, "POST"),
        ("GET", "/nowhere", 404, None),
        ("POST", "/v1/nowhere", 404, None),
        ("HEAD", "/nowhere", 404, None),
    ],
)
@pytest.mark.parametrize("page", [True, False])
def test_paths_and_methods_that_are_not_there(live, paged, page, method, path, status, allow):
    if path == "/" and method == "HEAD" and not page:
        status = 405
    server = paged if page else live
    head = {"Content-Type": "application/json"} if method == "POST" else {}
    answer = server.client.request(method, path, headers=head)
    assert (answer.status_code, answer.headers.get("allow")) == (status, allow or answer.headers.get("allow"))
    if method == "HEAD":
        assert not answer.content
    elif status >= 400:
        assert answer.json()["error"]["type"] in ("invalid_request_error", "not_found_error")


def test_names_with_slashes_and_other_names_of_the_model(paged):
    assert [one["id"] for one in paged.client.get("/v1/models").json()["data"]] == ["toy", "THUDM/glm-4", "gpt-4o"]
    assert paged.client.get("/v1/models/THUDM/glm-4").json()["id"] == "THUDM/glm-4"
    assert paged.chat(model="THUDM/glm-4").status_code == paged.chat(model="gpt-4o").status_code == 200
    assert paged.chat(model="THUDM").status_code == paged.client.get("/v1/models/THUDM").status_code == 404


def test_health_has_no_name(paged):
    assert paged.client.get("/health", headers={"Host": "pod.internal.test"}).status_code == 200
    assert paged.client.get("/metrics", headers={"Host": "pod.internal.test"}).status_code == 403


def test_labels_of_metrics_are_few(paged):
    for number in range(40):
        paged.client.request(f"X{number}", f"/{number}")
    lines = [
        line for line in paged.client.get("/metrics").text.split("\n") if line.startswith("glm_http_requests_total")
    ]
    assert any('method="other"' in line for line in lines) and not any('method="X' in line for line in lines)


def test_requests_have_numbers_and_a_log(another, capsys):
    server = another(log_requests=True, api_key="secret-key")
    head = {"Authorization": "Bearer secret-key"}
    given = server.client.get("/v1/models?a=1", headers={**head, "X-Request-Id": "trace-1:a"})
    made = server.client.get("/v1/models", headers={**head, "X-Request-Id": 'no "number" at all'})
    refused = server.client.get("/v1/models")
    assert given.headers["x-request-id"] == "trace-1:a" and len(made.headers["x-request-id"]) == 32
    said = capsys.readouterr().err
    assert "trace-1:a 127.0.0.1 GET /v1/models 200" in said and f"{refused.headers['x-request-id']} 127.0.0.1 GET /v1/models 401" in said  # fmt: skip
    assert "secret" not in said and "number" not in said


def test_a_file_as_a_socket(toy, tmp_path):
    path = tmp_path / "glm.sock"
    process, said = start_server(tmp_path / "said", toy, "--no-feedback", "--socket", str(path))
    assert said == str(path)
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://upstream") as client:
        assert client.get("/v1/models").json()["data"][0]["id"] == toy.name
    with pytest.raises(ValueError, match="in use"):
        app.bind(ServeConfig(socket=str(path)))
    process.kill()
    process.join(15)
    app.bind(ServeConfig(socket=str(path))).close()  # of one that was killed
    (tmp_path / "text").write_text("kept")
    with pytest.raises(ValueError, match="socket = "):
        app.bind(ServeConfig(socket=str(tmp_path / "text")))
    assert (tmp_path / "text").read_text() == "kept"


def test_a_proxy_in_the_environment_is_no_hindrance(toy, tmp_path, monkeypatch):
    for name in ("ALL_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "socks5://127.0.0.1:1")
    process, url = start_server(tmp_path / "said", toy, "--no-feedback", "--page")
    assert httpx.get(url, trust_env=False).status_code == 200
    process.terminate()
    process.join(15)


def test_without_a_home_folder_no_feedback_is_kept_and_that_is_said(monkeypatch, assistant, capsys):
    def nowhere():
        raise RuntimeError("Could not determine home directory.")

    for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME", "OPENGLM_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    built = app.build(assistant, ServeConfig(page=False), "toy")
    assert built.app.state.feedback is None
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "HOME" in said
    for folder in (data_folder, cache_folder):
        with pytest.raises(ValueError, match="HOME"):
            folder()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_open_page_holds_up_no_end_and_nothing_is_printed(toy, tmp_path, number):
    process, url = start_server(tmp_path / "said", toy, "--no-feedback", "--page")
    opened = []

    def look(path):
        with httpx.stream("GET", url + path, timeout=60) as answer:
            opened.append(path)
            answer.read()

    paths = ["/gradio_api/heartbeat/abc", "/gradio_api/queue/data?session_hash=abc"]
    tabs = [threading.Thread(target=look, args=(path,), daemon=True) for path in paths]
    for tab in tabs:
        tab.start()
    until(lambda: len(opened) == 2)
    os.kill(process.pid, number)
    process.join(20)
    said = (tmp_path / "said").read_text()
    assert process.exitcode is not None
    assert said.count("\n") <= 2 and "Traceback" not in said and "Cancel" not in said, said
