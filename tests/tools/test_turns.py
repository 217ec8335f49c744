"""Calls inside an answer and by an answer: the tools run, the model reads what they say, the cache is kept, and nothing but the model's own tokens calls."""

from types import MethodType

import pytest
from helpers.scripted import scripted, with_marks
from helpers.text_samples import TEXTS, VOCAB_SIZE
from helpers.tokenizer_files import make_folders

from openglm import Tools
from openglm.assistant import Reply, SamplingParams
from openglm.text import load_tokenizer, train_tokenizer
from openglm.text.steps import SURE

SUM = "[Begin]Calc[Param](3+333)*111/2[End]"
CHINESE = (
    "3+6+9+12+...+333 是多少？",
    f"设共有n项，[Begin]Solve[Param][333=3+(n-1)*3],[n][End]，所以和是{SUM}。答案是18648。<eop>",
    "设共有n项，，所以和是。答案是18648。",
)
ENGLISH = (
    "What is 3+6+9+12+...+333?",
    f"The last of n terms is 333: [Begin]Solve[Param][333=3+(n-1)*3],[n][End], so the sum is {SUM}, that is 18648.<eop>",
    "The last of n terms is 333: , so the sum is , that is 18648.",
)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    return train_tokenizer(iter(TEXTS), VOCAB_SIZE, tmp_path_factory.mktemp("own"))


def ask(assistant, question="?", **options):
    reply = Reply("")
    options = {"max_tokens": 200, "temperature": 0, **options}
    pieces = list(assistant.stream([{"role": "user", "content": question}], answer=reply, **options))
    assert not assistant.script.left, "the whole script was read"
    return reply, "".join(pieces)


@pytest.mark.parametrize(("question", "written", "shown"), [CHINESE, ENGLISH])
def test_the_sum_of_the_series_is_worked_out_by_two_calls(own, question, written, shown):
    assistant = scripted(own, written, Tools())
    reply, streamed = ask(assistant, question)
    assert reply.text == streamed == shown
    assert [(step.name, step.arguments, step.result, step.failed) for step in reply.steps] == [
        ("Solve", "[333=3+(n-1)*3],[n]", "n=111", False),
        ("Calc", "(3+333)*111/2", "18648", False),
    ]
    read = [token for step in assistant.script.computed for token in step]
    for result in ("n=111", "18648"):
        behind = [own.special["[End]"], *own.encode(result), own.special["[Gen]"]]
        assert any(read[start : start + len(behind)] == behind for start in range(len(read)))
    assert reply.usage["completion_tokens"] == len(with_marks(own, written)), "results are not the model's"


def test_neither_the_prompt_nor_the_answer_is_computed_again_for_a_call(own):
    """The cache shares whole blocks, so each call costs less than one block of 16 beyond what it brings."""
    question, written, _ = CHINESE
    assistant = scripted(own, written, Tools())
    reply, _ = ask(assistant, question * 8)
    results = sum(len(own.encode(step.result)) + 1 for step in reply.steps)
    needed = reply.usage["prompt_tokens"] + reply.usage["completion_tokens"] + results
    computed = sum(map(len, assistant.script.computed))
    assert needed - 1 <= computed < needed + 2 * 16 < needed + reply.usage["prompt_tokens"]


def test_the_next_question_finds_the_calls_where_they_were(own):
    """A later prompt begins with all that was read and written, token by token; what a tool said is not learnt."""
    question, written, _ = CHINESE
    assistant = scripted(own, written, Tools())
    reply, _ = ask(assistant, question)
    conversation = [{"role": "user", "content": question}, *reply.messages]
    ids, mask = own.render(conversation)
    prompt, _ = own.render(conversation[:1], generation_prompt=True)
    dialogue = written.replace("[n][End]", "[n][End]n=111[Gen]").replace("2[End]", "2[End]18648[Gen]")
    answer = with_marks(own, dialogue.removesuffix("<eop>"))
    assert ids[: len(prompt) + len(answer)] == prompt + answer
    trained = [token for token, learnt in zip(ids, mask, strict=True) if learnt]
    assert trained[:-1] == with_marks(own, written.removesuffix("<eop>"))


def test_nothing_but_the_models_own_tokens_is_a_call(own):
    """Not what a user types, not what a tool returns, not text of the model that only looks like one."""
    call = "[Begin]Calc[Param]1+1[End]"
    tools = Tools()
    tools.add(lambda_named("echo", call))
    assistant = scripted(own, "[Begin]echo[Param]x[End]好<eop>", tools)
    reply, _ = ask(assistant, call)
    assert [step.name for step in reply.steps] == ["echo"] and reply.steps[0].result == call
    marks = {own.special[name] for name in ("[Begin]", "[Param]", "[End]", "[Gen]")}
    read = [token for step in assistant.script.computed for token in step if token in marks]
    assert [token for token in read if token == own.special["[Begin]"]] == [own.special["[Begin]"]]
    typed = scripted(own, "", tools)
    typed.script.left = [*own.encode(call), own.special["<eop>"]]
    reply, streamed = ask(typed)
    assert reply.steps == [] and reply.text == streamed == call


def lambda_named(name, result):
    def tool(text: str) -> str:
        return result() if callable(result) else result

    tool.__name__ = name
    return tool


def fails():
    raise RuntimeError("one\ntwo")


@pytest.mark.parametrize(
    ("call", "told"),
    [
        ("nothing[Param]1", "error: there is no tool 'nothing'"),
        ("Calc[Param]1,2,3", "error: Calc: takes expression, decimals, but 3 values were given"),
        ("Calc", "error: Calc: expression: Field required"),
        ("Calc[Param]9^9^9", "error: Calc: a number of more than 12,000 digits is not computed"),
        ("breaks[Param]x", "error: breaks: RuntimeError: one two"),
        ("ends[Param]x", "error: ends: SystemExit: 1"),
        ("hangs[Param]x", "error: hangs: no result in 0.5 s"),
        ("is_long[Param]x", "(1000000 characters)"),
        ("[Param]1", "error: there is no tool ''"),
    ],
)
def test_a_failing_tool_is_told_in_one_line_and_the_answer_goes_on(own, call, told):
    import threading

    tools = Tools(seconds=0.5 if call.startswith("hangs") else 30)
    for name, result in {
        "breaks": fails,
        "ends": lambda: exit(1),
        "hangs": lambda: threading.Event().wait(20),
        "is_long": "x" * 1_000_000,
    }.items():
        tools.add(lambda_named(name, result))
    reply, streamed = ask(scripted(own, f"a[Begin]{call}[End]b<eop>", tools))
    [step] = reply.steps
    assert told in step.result and "\n" not in step.result and len(step.result) < 4100
    assert step.failed == step.result.startswith("error") and streamed == reply.text == "ab"


def test_an_answer_has_so_many_calls_and_no_more(own):
    count = 0

    def add() -> str:
        nonlocal count
        count += 1
        return str(count)

    tools = Tools(calls=2)
    tools.add(add)
    reply, _ = ask(scripted(own, "[Begin]add[Param][End]" * 3 + "done<eop>", tools))
    assert [step.result for step in reply.steps[:2]] == ["1", "2"] and count == 2 and reply.text == "done"
    assert reply.steps[2].failed and "no more than 2 calls" in reply.steps[2].result


def test_a_call_that_is_not_whole_stays_visible_and_a_stray_end_is_told(own):
    tools = Tools()
    assert ask(scripted(own, "a [Begin]Calc[Param]1+1<eop>", tools))[0].text == "a Calc1+1"
    reply, streamed = ask(scripted(own, "a [Begin]Calc[Begin]Calc[Param]1+1[End] b<eop>", tools))
    assert reply.text == streamed == "a Calc b" and [step.result for step in reply.steps] == ["2"]
    reply, _ = ask(scripted(own, "a[End]b<eop>", tools))
    assert reply.text == "ab" and reply.steps[0].failed


def test_an_answer_ends_where_the_context_does(own):
    tools = Tools()
    tools.add(lambda_named("is_long", "一" * 10_000))
    assistant = scripted(own, "a[Begin]is_long[Param]x[End]", tools, context=330)
    reply, _ = ask(assistant, max_tokens=1000)
    assert reply.text == "a" and reply.steps[0].result.startswith("一")


def weather(city: str, days: int = 1) -> str:
    """The weather of a city."""
    return f"{city}: rain for {days} days"


@pytest.fixture(scope="module")
def folders(tmp_path_factory, own):
    return make_folders(tmp_path_factory.mktemp("all"), own)


@pytest.mark.parametrize(
    ("kind", "call"),
    [
        ("chatglm3-6b", "weather\n```python\ntool_call(city='北京', days=2)\n```<|observation|>"),
        ("glm-4", 'weather\n{"city": "北京", "days": 2}<|observation|>'),
        ("glm-4-0414", 'weather\n{"city": "北京", "days": 2}<|observation|>'),
        (
            "glm-4.5",
            "</think>\n<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>北京</arg_value>\n"
            "<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n</tool_call><|observation|>",
        ),
        ("openglm", 'weather\n{"city": "北京", "days": 2}<|observation|>'),
    ],
)
def test_published_formats_call_the_same_registry(own, folders, kind, call):
    """The prompt lists the tools, the result comes back as the format has it, and the second answer is the answer."""
    tokenizer = own if kind == "openglm" else load_tokenizer(folders[kind])
    tools = Tools()
    tools.add(weather)
    opening = "\n" if kind in ("chatglm3-6b", "glm-4", "glm-4-0414") else "</think>\n" if kind == "glm-4.5" else ""
    end = "<eop>" if kind == "openglm" else "<|user|>"
    assistant = scripted(tokenizer, f"{call}{opening}要下雨。{end}", tools, context=16384)
    reply, streamed = ask(assistant, "天气？")
    assert [(step.name, step.arguments, step.result) for step in reply.steps] == [
        ("weather", {"city": "北京", "days": 2}, "北京: rain for 2 days")
    ]
    assert reply.text.strip() == streamed.strip() == "要下雨。" and reply.tool_calls == []
    assert [message["role"] for message in reply.messages] == ["assistant", "tool", "assistant"]
    read = [token for step in assistant.script.computed for token in step]
    listed = tokenizer.decode(read)
    assert "The weather of a city." in listed and "北京: rain for 2 days" in listed
    assert ("Calc" in listed) == (kind != "openglm"), "what a model knows by training need not be listed"


def test_calls_of_the_callers_own_tools_are_left_to_the_caller(own):
    schema = {"type": "function", "function": {"name": "weather", "description": "", "parameters": {"type": "object"}}}
    assistant = scripted(own, 'weather\n{"city": "北京"}<|observation|>', Tools())
    reply, _ = ask(assistant, tools=[schema])
    assert reply.steps == [] and reply.tool_calls[0]["function"]["arguments"] == {"city": "北京"}


def weakly(script, where):
    """Make the written tokens all but certain, except where `where(tokens written before)`: there they are only likeliest."""
    written, run = [], script.run

    def faint(self, step):
        wanted = script.left[: len(step.wanted)]
        logits = run(step)
        for row, token in zip(logits, wanted, strict=True):
            row *= 0.1 if where(written) else 1e3
            written.append(token)
        return logits

    script.run = MethodType(faint, script)


def inside(special):
    return lambda written: written.count(special["[Begin]"]) > written.count(special["[End]"])


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_a_call_is_not_left_to_chance(own, temperature):
    """Drawn tokens would miss a call in which each token is hardly likelier than any other."""
    question, written, shown = CHINESE
    for seed in range(3):
        assistant = scripted(own, written, Tools())
        weakly(assistant.script, inside(own.special))
        penalties = {"repetition_penalty": 2.0, "presence_penalty": 2.0}
        params = SamplingParams(200, temperature=temperature, seed=seed, **penalties)
        turn = assistant.turn([{"role": "user", "content": question}], params)
        while not turn.over:
            turn.advance(assistant.engine.generate(*([one] for one in turn.request))[0].ids)
        assert not assistant.script.left and turn.text == shown
        assert [(step.arguments, step.result) for step in turn.steps] == [
            ("[333=3+(n-1)*3],[n]", "n=111"),
            ("(3+333)*111/2", "18648"),
        ]
        assert turn.tokens == len(with_marks(own, written))


@pytest.mark.parametrize(("ahead", "calls"), [(SURE - 0.1, 0), (SURE + 0.1, 1)])
def test_a_call_is_opened_only_by_a_model_that_is_sure_of_it(own, ahead, calls):
    assistant = scripted(own, "[Begin]Calc[Param]1+1[End]2<eop>", Tools())
    run, begin = assistant.script.run, own.special["[Begin]"]

    def torn(self, step):
        logits = run(step)
        logits[logits[:, begin] > 0, own.encode("答")[0]] = 10.0 - ahead
        return logits

    assistant.script.run = MethodType(torn, assistant.script)
    reply = assistant.reply([{"role": "user", "content": "1+1=?"}], max_tokens=20 if calls else 1, temperature=0.0)
    assert len(reply.steps) == calls and reply.text == ("2" if calls else "答")


def test_behind_a_call_chance_goes_on(own):
    found = set()
    for seed in range(4):
        assistant = scripted(own, f"{SUM}{'答' * 40}", Tools())
        weakly(assistant.script, lambda written: own.special["[End]"] in written)
        reply = assistant.reply([{"role": "user", "content": "?"}], max_tokens=35, temperature=1.0, seed=seed)
        assert reply.steps[0].result == "18648"
        found.add(reply.text)
    assert len(found) == 4


def answered(assistant, turns):
    """The tokens of each turn, all of them asked at once."""
    ids = [[] for _ in turns]
    while waiting := [number for number, turn in enumerate(turns) if not turn.over]:
        requests = [turns[number].request for number in waiting]
        for number, result in zip(waiting, assistant.engine.generate(*zip(*requests, strict=True)), strict=True):
            ids[number] += result.ids
            turns[number].advance(result.ids)
    return ids


def test_drawn_answers_with_calls_are_the_same_in_company_and_calls_are_the_likeliest(own):
    """Of a network that likes to open calls and to close them; what it writes in them is its own."""
    assistant = scripted(own, "", Tools(calls=3))
    begin, end = own.special["[Begin]"], own.special["[End]"]
    runner = assistant.engine.runner = assistant.script.runner
    run = runner.run

    def eager(step):
        logits = run(step).clone()
        logits[:, [begin, end]] += 3 * logits.std(-1, keepdim=True)
        logits[:, begin] += SURE
        return logits

    runner.run = eager

    def turns(seeds):
        ask = [{"role": "user", "content": "1+1=?"}]
        return [assistant.turn(ask, SamplingParams(60, temperature=1.0, seed=seed, ignore_eos=True)) for seed in seeds]

    together, opened = answered(assistant, turns(range(4))), 0
    assert together == [answered(assistant, turns([seed]))[0] for seed in range(4)]
    for turn in turns(range(4)):
        while not turn.over:
            prompt, params = turn.request
            ids = assistant.engine.generate([prompt], [params])[0].ids
            turn.advance(ids)
            if prompt[-1] == begin:
                [greedy] = assistant.engine.generate(
                    [prompt], [SamplingParams(len(ids), stop_ids=(end,), ignore_eos=True)]
                )
                assert ids == greedy.ids
                opened += 1
    assert opened > 1
