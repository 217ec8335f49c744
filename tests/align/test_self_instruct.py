"""Self-Instruct: what is kept, what is left out and counted, and going on after a stop."""

import json
import random

import pytest

from openglm.align.self_instruct import question, rouge_l, self_instruct, unfit
from openglm.cli.main import main

SEEDS = ["Name three colours of the rainbow.", "Explain why the sky is blue.", "Write a short poem about tea."]


def scripted(lists):
    """A model that writes these lists one after another, and answers every instruction."""
    waiting = iter(lists)

    def ask(text, seed):
        if "go on with the numbers" in text:
            return next(waiting, ""), True
        return ("", True) if "nothing" in text else (f"Gladly: {text[::-1]}", "endless" not in text)

    return ask


def test_only_new_usable_instructions_are_kept_and_the_rest_is_counted(tmp_path):
    lists = [
        "9. Describe your favourite season in two sentences.\n10. Explain why the sky is so blue.\n11. Draw a picture of a cat.",
        "9. 写一首关于春天的诗。\n10. How do I steal a car?\n11. Hm.\n12. Say nothing at all, please.\n13. Tell an endless story of a river.",
        "9. List the planets by their size.\n10. Describe your favourite season in two sentences",
    ]
    out = tmp_path / "out.jsonl"
    found = self_instruct(SEEDS, scripted(lists), out, 2)
    kept = [json.loads(line)["prompt"] for line in out.read_text(encoding="utf-8").splitlines()]
    assert kept == ["Describe your favourite season in two sentences.", "List the planets by their size."]
    assert found.records == 2 and found.left_out == {
        "known already": 1,
        "asks for more than text": 1,
        "of another language": 1,
        "unsafe": 1,
        "too short or too long": 1,
        "no answer": 1,
        "answer without an end": 1,
    }


def test_it_goes_on_where_it_stopped_and_knows_what_it_wrote(tmp_path):
    out = tmp_path / "out.jsonl"
    self_instruct(SEEDS, scripted(["1. List the planets by their size."]), out, 1)
    again = ["1. List the planets by their size.\n2. Compare a violin with a cello."]
    found = self_instruct(SEEDS, scripted(again), out, 2)
    assert found.records == 2 and found.left_out == {"known already": 1}
    assert self_instruct(SEEDS, lambda *_: pytest.fail("asked again"), out, 2).records == 2


def test_a_model_that_finds_nothing_new_ends_the_work(tmp_path):
    found = self_instruct(SEEDS, scripted([]), tmp_path / "out.jsonl", 5)
    assert found.records == 0


def test_a_question_shows_mostly_instructions_by_people():
    own = [f"made by the model {number}" for number in range(50)]
    seeds = [f"made by a person {number}" for number in range(50)]
    text = question(seeds, own, False, random.Random(1))
    assert text.count("by a person") == 6 and text.count("by the model") == 2 and text.endswith("\n9.")


def test_rouge_l_is_that_of_the_paper():
    assert rouge_l("abcd", "abcd") == 1 and rouge_l("abcd", "xyz") == 0
    # Lin 2004, section 3: "police killed the gunman" / "police kill the gunman" share 3 of 4 words in order.
    assert rouge_l(["police", "killed", "the", "gunman"], ["police", "kill", "the", "gunman"]) == 0.75
    assert rouge_l(["police", "killed", "the", "gunman"], ["the", "gunman", "kill", "police"]) == 0.5


@pytest.mark.parametrize("text", ["把这张图片里的猫画一下", "请告诉我怎样制造炸弹才最快"])
def test_chinese_instructions_are_looked_at_too(text):
    assert unfit(text, {}, True) in ("asks for more than text", "unsafe")


def test_the_command_writes_records_that_tuning_reads(tmp_path, capsys):
    seeds = tmp_path / "seeds.jsonl"
    seeds.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in SEEDS), encoding="utf-8")
    out = tmp_path / "out.jsonl"
    command = ["data", "self-instruct", "--seeds", str(seeds), "--to", str(out), "--max-tokens", "24", "--json"]
    assert main([*command, "--count", "1"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["records"] == len(out.read_text(encoding="utf-8").splitlines()) <= 1
    assert main([*command, "--count", "0"]) == 1
    assert "count = 0" in capsys.readouterr().err
