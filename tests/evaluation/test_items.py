"""Files in the form in which the benchmarks are published, and what is said where they are not."""

import csv
import json
from pathlib import Path

import pytest

from openglm.evaluation.tasks import TASKS, find

MMLU = [["What is 2 + 2?", "3", "4", "5", "6", "B"]]
CEVAL = [
    ["id", "question", "A", "B", "C", "D", "answer", "explanation"],
    ["0", "下列何者为水果？", "桌", "椅", "苹果", "灯", "C", ""],
]
CMMLU = [
    ["", "Question", "A", "B", "C", "D", "Answer"],
    ["0", "水稻属于哪一科？", "禾本科", "豆科", "菊科", "兰科", "A"],
]
AGIEVAL = {
    "passage": None, "question": "Which follows?", "options": ["(A)One", "(B)Two", "(C)Three"], "label": "C",
    "other": {"solution": ""},
}  # fmt: skip
CLOZE = {"passage": None, "question": "What is $1+1$?", "options": None, "label": None, "answer": "2", "other": {}}
GSM8K = {
    "question": "Ann has 1,000 apples and eats 1. How many are left?",
    "answer": "1000 - 1 = <<1000-1=999>>999\n#### 999",
}
BIGBENCH = {
    "name": "strange_stories", "task_prefix": "Read.", "keywords": ["x"], "metrics": ["multiple_choice_grade"],
    "examples": [{"input": "Was it so?", "target_scores": {"Yes.": 0, "No.": 1}}],
}  # fmt: skip
REPEAT = {**BIGBENCH, "examples": [{"input": "Say hi twice", "target": "hi hi"}]}
AFQMC = {"sentence1": "双十一花呗提额在哪", "sentence2": "里可以提花呗额度", "label": "0"}
C3 = [
    ["男：你今天晚上有时间吗？"],
    [{"question": "他们在说什么？", "choice": ["时间", "吃饭"], "answer": "时间"}],
    "25-35",
]
WSC = {
    "target": {"span2_index": 37, "span1_index": 5, "span1_text": "床", "span2_text": "它"},
    "idx": 261, "label": "false", "text": "这时候放在床上枕头旁边的手机响了。",
}  # fmt: skip
NLI = {
    "level": "easy",
    "sentence1": "身上裹一件",
    "sentence2": "身上没有衣服",
    "label": "contradiction",
    "genre": "lit",
}
CMRC = {
    "version": "v1.0",
    "data": [{
        "paragraphs": [{
            "id": "DEV_0", "context": "《战国无双3》是由光荣和ω-force开发的。",
            "qas": [{"question": "由谁开发的？", "id": "DEV_0_QUERY_0",
                     "answers": [{"text": "光荣和ω-force", "answer_start": 9}, {"text": "光荣和ω-force", "answer_start": 9}]}],
        }],
        "id": "DEV_0", "title": "战国无双3",
    }],
}  # fmt: skip
CHID = {"id": 0, "candidates": ["安之若素", "一诺千金"], "content": "他#idiom#，从不食言。", "answer": 1}
PROGRAM = {
    "task_id": "HumanEval/0",
    "prompt": "def one():\n",
    "entry_point": "one",
    "canonical_solution": "    a = 1\n\n    return a\n",
    "test": "def check(candidate):\n    assert candidate() == 1\n",
}
HSK = {
    "chinese": "老师，您好！",
    "translation": {"en": "Hello, teacher!"},
    "pair": {"en": "Hello, teacher!", "zh": "老师好！"},
}
FILES = {
    "mmlu": ("mmlu/test/abstract_algebra_test.csv", MMLU, ("3", "4", "5", "6"), (1,)),
    "ceval": ("ceval/val/accountant_val.csv", CEVAL, ("桌", "椅", "苹果", "灯"), (2,)),
    "cmmlu": ("cmmlu/test/agronomy.csv", CMMLU, ("禾本科", "豆科", "菊科", "兰科"), (0,)),
    "agieval/lsat-ar": ("agieval/lsat-ar.jsonl", [AGIEVAL], ("One", "Two", "Three"), (2,)),
    "agieval/jec-qa-kd": ("agieval/jec-qa-kd.jsonl", [{**AGIEVAL, "label": ["A", "C"]}], ("One", "Two", "Three"), (0, 2)),
    "agieval/math": ("agieval/math.jsonl", [CLOZE], (), ("2",)),
    "gsm8k": ("gsm8k/test.jsonl", [GSM8K], (), ("999",)),
    "lambada": ("lambada/lambada_test_plain_text.jsonl", [{"text": "in my palm is a clear stone"}], ("stone",), (0,)),
    "bigbench/strange_stories": ("bigbench/strange_stories/multiple_choice/task.json", BIGBENCH, ("Yes.", "No."), (1,)),
    "bigbench/repeat_copy_logic": ("bigbench/repeat_copy_logic/task.json", REPEAT, (), ("hi hi",)),
    "clue/afqmc": ("clue/afqmc_public/dev.json", [AFQMC], ("不同", "相同"), (0,)),
    "clue/c3": ("clue/c3_public/m-dev.json", [C3], ("时间", "吃饭"), (0,)),
    "clue/wsc": ("clue/cluewsc2020_public/dev.json", [WSC], ("不是", "是"), (0,)),
    "clue/cmnli": ("clue/cmnli_public/dev.json", [{**NLI, "label": "-"}, NLI], ("是", "可能", "不是"), (2,)),
    "clue/cmrc": ("clue/cmrc2018_public/dev.json", CMRC, (), ("光荣和ω-force",)),
    "clue/drcd": ("clue/drcd_public/dev.json", CMRC, (), ("光荣和ω-force",)),
    "fewclue/eprstmt": (
        "fewclue/eprstmt/test_public.json", [{"id": 0, "sentence": "很不错", "label": "Positive"}], ("差", "好"), (1,)
    ),
    "fewclue/bustm": ("fewclue/bustm/dev_few_all.json", [{**AFQMC, "id": 1, "label": "1"}], ("不同", "相同"), (1,)),
    "fewclue/ocnli": ("fewclue/ocnli/test_public.json", [NLI], ("是", "可能", "不是"), (2,)),
    "fewclue/chid": ("fewclue/chid/test_public.json", [CHID], ("安之若素", "一诺千金"), (1,)),
    "fewclue/cluewsc": ("fewclue/cluewsc/test_public.json", [{**WSC, "label": "true"}], ("不是", "是"), (1,)),
    "translation/zh-en": ("translation/hsk.json", HSK, (), ("Hello, teacher!",)),
    "translation/en-zh": ("translation/wmt.jsonl", [{"translation": HSK["pair"]}], (), ("老师好！",)),
    "humaneval": ("humaneval/HumanEval.jsonl", [PROGRAM], (), ("    a = 1\n\n    return a\n",)),
}  # fmt: skip


def write(folder: Path, name: str, content) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            csv.writer(file).writerows(content)
        elif name.startswith("clue/c3") or isinstance(content, dict):
            json.dump(content, file, ensure_ascii=False, indent=1)
        else:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in content)
    return path


@pytest.mark.parametrize("name", FILES)
def test_a_published_file_gives_its_question_and_right_answer(name, tmp_path):
    file, content, choices, right = FILES[name]
    write(tmp_path, file, content)
    [item] = find(TASKS[name], tmp_path)[0]
    assert (item.choices, item.right) == (choices, right)
    prompt = TASKS[name].ask(item)
    assert "{" not in prompt and all(text in prompt + TASKS[name].follows(item) for text in _asked(content))


def _asked(content) -> list[str]:
    """The texts of a record that a model has to see."""
    named = ("question", "sentence1", "sentence2", "sentence", "passage", "context", "input")
    if isinstance(content, dict):
        return [v for k, v in content.items() if k in named and isinstance(v, str)] + [
            t for v in content.values() for t in _asked(v)
        ]
    return [text for one in content for text in _asked(one)] if isinstance(content, list) else []


@pytest.mark.parametrize(
    ("name", "field"),
    [
        *[
            ("mmlu", None),
            ("ceval", "C"),
            ("cmmlu", "Answer"),
            ("agieval/lsat-ar", "label"),
            ("agieval/math", "answer"),
        ],
        *[("gsm8k", "answer"), ("lambada", "text"), ("bigbench/strange_stories", "examples"), ("clue/afqmc", "label")],
        *[("clue/wsc", "target"), ("clue/cmrc", "data"), ("fewclue/chid", "candidates"), ("humaneval", "test")],
    ],
)
def test_a_missing_field_is_named_with_file_and_line(name, field, tmp_path):
    file, content, _, _ = FILES[name]
    if file.endswith(".csv"):
        place = content[0].index(field) if field else 0
        content = [row[:place] + row[place + 1 :] for row in content]
    else:
        rows = [content] if isinstance(content, dict) else content
        content = [{key: value for key, value in row.items() if key != field} for row in rows]
    path = write(tmp_path, file, content)
    with pytest.raises(ValueError) as raised:
        find(TASKS[name], tmp_path)
    said = str(raised.value)
    assert str(path) in said and "line" in said and (field is None or field == "data" or repr(field) in said)


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("agieval/lsat-ar", {**AGIEVAL, "label": "E"}), ("clue/afqmc", {**AFQMC, "label": "7"}), ("clue/afqmc", [1, 2]),
        ("fewclue/chid", {**CHID, "answer": 5}), ("fewclue/chid", {**CHID, "candidates": None}), ("gsm8k", {"question": "x", "answer": "####"}),
        ("lambada", {"text": 3}), ("clue/wsc", {**WSC, "target": "bed"}), ("humaneval", {**PROGRAM, "task_id": 0}),
    ],
)  # fmt: skip
def test_a_record_that_cannot_be_asked_is_an_error_of_one_line(name, row, tmp_path):
    write(tmp_path, FILES[name][0], [row])
    with pytest.raises(ValueError, match=r"line \d+|record \d+") as raised:
        find(TASKS[name], tmp_path)
    assert "\n" not in str(raised.value)


def test_the_folder_of_one_benchmark_will_do(tmp_path):
    write(tmp_path, "humaneval/HumanEval.jsonl", [PROGRAM])
    assert find(TASKS["humaneval"], tmp_path)[0] == find(TASKS["humaneval"], tmp_path / "humaneval")[0]


def test_cut_programs_are_whole_with_what_was_cut_out(tmp_path):
    """Two lines give two single lines, three runs of lines and ten spans, as for HumanEval itself: 1,033, 5,815, 1,640."""
    write(tmp_path, "humaneval/HumanEval.jsonl", [PROGRAM])
    for name, count in (("single-line", 2), ("multi-line", 3), ("random-span", 10)):
        items = find(TASKS[f"infilling/{name}"], tmp_path)[0]
        assert len(items) == count
        for item in items:
            assert (
                item.fields["prompt"] + item.right[0] + item.fields["after"]
                == PROGRAM["prompt"] + PROGRAM["canonical_solution"]
            )
