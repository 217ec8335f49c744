"""`glm sft` from options to figures: adapters, replayed text, held-out answers, and what was measured before and after."""

import dataclasses
import json
import math

import pytest
import torch
from helpers.pairs import SHAPE, WORDS, tiny_model
from helpers.tiny_runs import log_lines

import openglm
from openglm.align.abilities import abilities, bits_per_byte
from openglm.align.overlap import SCORES, overlap
from openglm.align.passages import PASSAGES
from openglm.cli.main import main

TEXT = ["The river runs under the old stone bridge.", "清晨的湖面上飘着一层薄雾。"]


@pytest.fixture
def chats(tmp_path):
    """Conversations with an answer that the toy never gives."""
    records = [{"prompt": f"what about {word}?", "response": f"yes: {word} is good"} for word in WORDS]
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def command(base, chats, out, *more):
    data = ["--data.dialogues", "new", str(chats), "--data.heldout-dialogues", "held", str(chats)]
    length = ["--train.seq-len", "64", "--train.batch-rows", "8", "--train.save-every", "20", "--train.device", "cpu"]
    usual = ["--data.workers", "0", "--optimizer.schedule", "constant", "--optimizer.lr", "1e-2"]
    return ["sft", "--init-from", str(base), *data, "--train.out", str(out), *length, *usual, *more]


KINDS = {
    "none": ["--optimizer.lr", "3e-3"],
    "lora": ["--adapter", "lora", "--lora.targets", "all", "--optimizer.lr", "2e-2"],
    "prefix": ["--adapter", "prefix", "--prefix.length", "8", "--optimizer.lr", "5e-2"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_tuned_is_measured_before_and_after(toy, chats, tmp_path, capsys, kind):
    texts = tmp_path / "texts"
    texts.mkdir()
    for number, text in enumerate(TEXT):
        (texts / f"{number}.txt").write_text(text, encoding="utf-8")
    replay = ["--replay", str(texts), "--replay-share", "0.25"]
    asked = ["--answers", "4", "--train.steps", "60", "--train.eval-every", "20", "--train.patience", "9"]
    assert main(command(toy, chats, tmp_path / "run", *KINDS[kind], *replay, *asked)) == 0
    said = capsys.readouterr().err
    assert f"{texts}: 2 texts" in said and "the held-out loss was lowest" in said and "before -> after: text " in said
    found = json.loads((tmp_path / "run" / "before_after.json").read_text())
    before, after = found["before"], found["after"]
    losses = [line["heldout"]["held"] for line in log_lines(tmp_path / "run") if "heldout" in line]
    assert losses[-1] < losses[0] and before.keys() == after.keys() == {"text", "blanks", "ended", *SCORES}
    if kind == "none":
        assert after["rouge-1"] > before["rouge-1"] + 20 and after["ended"] > before["ended"]
    folder, adapter = (tmp_path / "run" / "model", None) if kind == "none" else (toy, tmp_path / "run" / "adapter")
    for figures, model in ((before, openglm.load_model(toy)), (after, openglm.load_model(folder, adapter=adapter))):
        alone = abilities(openglm.Engine(model, tokenizer=openglm.load_tokenizer(toy)))
        assert alone == pytest.approx({name: figures[name] for name in alone}, rel=1e-4)
    assert before["text"] != after["text"]


def test_bits_per_byte_are_those_of_plain_log_probabilities(toy):
    model, tokenizer = openglm.load_model(toy, device="cpu"), openglm.load_tokenizer(toy)
    marks, ids = [model.config.tokens.gmask, model.config.tokens.sop], tokenizer.encode(TEXT[1])
    logp = model.logits(torch.tensor([[*marks, *ids]])).log_softmax(-1)[0, 1:-1]
    wanted = -float(logp.gather(1, torch.tensor(ids)[:, None]).sum()) / math.log(2) / len(TEXT[1].encode())
    assert bits_per_byte(openglm.Engine(model, tokenizer=tokenizer), [(marks, ids)]) == pytest.approx(wanted, rel=1e-4)


def test_a_model_that_reads_only_the_past_has_no_blanks_to_forget(tmp_path):
    found = {}
    for mask in ("prefix", "causal"):
        shape = dataclasses.replace(SHAPE, mask=mask, span_positions="pinned" if mask == "prefix" else "running")
        folder = tiny_model(tmp_path / mask, shape)
        tokenizer = openglm.load_tokenizer(folder)
        found[mask] = abilities(openglm.Engine(openglm.load_model(folder, device="cpu"), tokenizer=tokenizer))
    assert found["prefix"].keys() == {"text", "blanks"} and found["causal"].keys() == {"text"}
    assert all(text.count("[") == 3 == text.count("]") for text in PASSAGES)


def test_overlap_by_hand():
    """Characters abcxx for abcde: precisions 3/5, 2/4, 1/3 and, for the first without a match, 1/(2 * 2)."""
    pytest.importorskip("sacrebleu")
    found = overlap(["abcxx"], ["abcde"])
    assert found["bleu-4"] == pytest.approx(100 * (3 / 5 * 2 / 4 * 1 / 3 * 1 / 4) ** 0.25, rel=1e-6)
    # Words: 我 爱 上海 for 我 爱 北京 天安门; two of three and of four are shared, and one pair of two and of three.
    found = overlap(["我爱上海"], ["我爱北京天安门"])
    assert found["rouge-1"] == pytest.approx(100 * 4 / 7, abs=0.01)
    assert found["rouge-2"] == pytest.approx(100 * 2 / 5, abs=0.01)
    assert overlap(["今天好", ""], ["今天好", "明天"]) == pytest.approx(dict.fromkeys(found, 50.0), abs=0.01)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--adapter", "lora", "--lora.rank", "33"], "lora.rank = 33: must be at most"),
        (["--answers", "4", "--data.heldout-dialogues"], "answers = 4: are those of data.heldout_dialogues"),
        (["--replay", "missing.txt"], "replay missing.txt: no such folder or file"),
        (["--replay-share", "1"], "replay_share = 1.0: must lie in (0, 1)"),
        (["--replay", ".", "--data.weights", "new", "1"], "replay = '.': brings the plain text; leave data.path"),
        (["--teacher", "nano", "--teacher-share", "2"], "teacher_share = 2.0"),
    ],
)
def test_a_wrong_option_is_one_line_before_weights_are_read(toy, chats, tmp_path, capsys, monkeypatch, more, words):
    import openglm.train.loop as loop

    monkeypatch.setattr(loop, "load_model", lambda *_, **__: pytest.fail("weights were read"))
    given = command(toy, chats, tmp_path / "run", "--train.steps", "1")
    if "--data.heldout-dialogues" in more:
        at = given.index("--data.heldout-dialogues")
        given, more = given[:at] + given[at + 3 :], more[:-1]
    assert main([*given, *more]) == 1
    assert words in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_history_that_does_not_fit_is_cut_at_its_left_and_the_end_stays(toy, tmp_path, capsys):
    chats = tmp_path / "long.jsonl"
    turn = [{"role": "user", "content": "tell me of it " * 3}, {"role": "assistant", "content": "it runs"}]
    last = [{"role": "user", "content": "and the stone?"}, {"role": "assistant", "content": "it stays"}]
    endless = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "on and on " * 60}]
    chats.write_text("".join(json.dumps({"messages": one}) + "\n" for one in (turn + last, endless)), encoding="utf-8")
    assert main(command(toy, chats, tmp_path / "run", "--show", "3", "--json")) == 0
    out, err = capsys.readouterr()
    (shown,) = json.loads(out)["examples"]
    assert [text for text, trained in shown if trained] == ["it stays<|user|>"]
    assert "1 lost their oldest turns" in err and "1 were left out, their last turn being longer" in err
