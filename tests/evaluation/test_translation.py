"""Translations are judged by sacrebleu, whose words of Chinese are its characters."""

import json

import pytest

from openglm.evaluation.run import Options, evaluate
from openglm.evaluation.tasks import TASKS

ENGLISH = ["The train leaves at eight o'clock.", "She has lived here for ten years."]
CHINESE = ["火车八点钟开。", "她在这里住了十年。"]


class Scripted:
    name = fingerprint = "scripted"

    def __init__(self, texts):
        self.texts = texts

    def fits(self, text, room):
        return True

    def likelihoods(self, queries):
        return iter(())

    def write(self, writings):
        self.asked = [writing.before for writing in writings]
        return enumerate(self.texts)


def judged(folder, target, texts) -> tuple[dict, list[str]]:
    (folder / "translation").mkdir(exist_ok=True)
    rows = [json.dumps({"zh": zh, "en": en}) for zh, en in zip(CHINESE, ENGLISH, strict=True)]
    (folder / "translation" / "pairs.jsonl").write_text("\n".join(rows))
    model, task = Scripted(texts), TASKS[f"translation/{'zh-en' if target == 'en' else 'en-zh'}"]
    return evaluate(model, "translation", task, Options(folder)), model.asked


@pytest.mark.parametrize(("target", "right", "source"), [("en", ENGLISH, CHINESE), ("zh", CHINESE, ENGLISH)])
def test_the_right_translation_is_whole_and_the_other_sentences_is_not(target, right, source, tmp_path):
    best, asked = judged(tmp_path, target, right)
    assert (best["value"], best["bleu"]) == pytest.approx((1.0, 1.0))
    assert all(text in prompt for text, prompt in zip(source, asked, strict=True))
    assert not any(text in prompt for text in right for prompt in asked)
    wrong, _ = judged(tmp_path, target, right[::-1])
    assert wrong["value"] < 0.3 and wrong["bleu"] < 0.2


def test_a_chinese_sentence_with_one_other_character_keeps_most_of_its_bleu(tmp_path):
    """Cut at spaces, the whole sentence would be one wrong word."""
    near, _ = judged(tmp_path, "zh", [CHINESE[0], "她在这儿住了十年。"])
    assert 0.5 < near["bleu"] < 1 and 0.5 < near["value"] < 1
