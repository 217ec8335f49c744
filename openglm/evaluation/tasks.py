"""The table of tasks: where a task's questions lie, what a prompt looks like, and how answers are judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

from openglm.config import require
from openglm.evaluation import items as read
from openglm.evaluation.items import LETTERS, Item, Read, read_items, subject


class Files(NamedTuple):
    """Some files under the data folder, and how to read them."""

    pattern: str
    read: Read
    columns: Sequence[str] = ()
    """of a CSV without a line of names"""


@dataclass(frozen=True)
class Task:
    """`prompt` and `answer` are formats over an item's fields, `options` (its choices in lettered lines), `category`,
    and of a choice `letter` and `text`. The first of `files` that is there counts."""

    files: tuple[Files, ...]
    prompt: str
    answer: str = " {letter}"
    kind: Literal["choice", "word", "write", "code", "bias"] = "choice"
    """choice: the likeliest of the choices; word: whether the answer is what the model would write; write: a scorer
    judges what it writes; code: tests judge it; bias: how often the first choice is likelier than the second"""
    after: str = ""
    """what follows the answer"""
    header: str = ""
    shots: int = 0
    shot_files: str = ""
    """questions with answers to show before: a pattern"""
    scorer: str = "exact"
    stop: tuple[str, ...] = ("\n",)
    max_tokens: int = 32
    language: str = ""
    """of a program"""

    def ask(self, item: Item) -> str:
        options = "\n".join(f"{LETTERS[n]}. {choice}" for n, choice in enumerate(item.choices))
        return self.prompt.format_map({**item.fields, "options": options, "category": item.category}).lstrip("\n")

    def answers(self, item: Item) -> list[str]:
        """The text of each choice as it stands behind the prompt."""
        named = enumerate(item.choices)
        return [self.answer.format_map({**item.fields, "letter": LETTERS[n], "text": text}) for n, text in named]

    def shown(self, item: Item) -> str:
        """A question with its answer."""
        if item.choices:
            return self.ask(item) + self.answers(item)[int(item.right[0])] + self.after.format_map(item.fields)
        return f"{self.ask(item)} {item.fields.get('solution', item.right[0])}"


def find(task: Task, folder: Path) -> tuple[list[Item], list[Item]]:
    """Its questions in a folder, and those to show before. Raises ValueError where there are none."""
    for files in task.files:
        paths = sorted(folder.glob(files.pattern))
        if not paths:
            continue
        found = _of(paths, files)
        shown = _of(sorted(folder.glob(task.shot_files)), files) if task.shot_files else []
        require(bool(found), "data", str(paths[0]), "has no question with a right answer")
        return found, shown
    wanted = " or ".join(files.pattern for files in task.files)
    raise ValueError(f"data = {str(folder)!r}: has no {wanted}; run glm data eval-items, or give --data FOLDER")


def _of(paths: Sequence[Path], files: Files) -> list[Item]:
    found = []
    for path in paths:
        items = read_items(path, files.read, files.columns)
        found += [replace(item, category=subject(path)) for item in items] if len(paths) > 1 else items
    return found


_LETTERED = "{question}\n{options}\nAnswer:"
_MMLU = "The following are multiple choice questions (with answers) about {category}.\n\n"
_ZH_HEADER = "以下是中国关于{category}考试的单项选择题，请选出其中的正确答案。\n\n"
_ZH = "{question}\n{options}\n答案："
_PASSAGE = "{passage}\n{question}\n{options}\nAnswer:"
_SAME = {"0": "不同", "1": "相同"}
_ENTAILS = {"entailment": "是", "neutral": "可能", "contradiction": "不是"}
_NLI = "{sentence1}\n以上是否说明：{sentence2}\n是、可能还是不是？答："
_PAIR = "句子一：{sentence1}\n句子二：{sentence2}\n两个句子的意思相同还是不同？答："
_READ = "{passage}\n问：{question}\n答："
_SUBJECT = ("question", *"ABCD", "answer")


def _nli(folder: str) -> Task:
    return Task((Files(folder, read.labelled(_ENTAILS)),), _NLI, answer="{text}")


def _agieval(name: str) -> Task:
    chinese = name.startswith(("gaokao", "jec", "logiqa-zh"))
    english = name == "gaokao-english"
    prompt = _ZH if chinese and not english else _LETTERED
    files = (Files(f"agieval/{name}.jsonl", read.agieval),)
    if name in ("math", "gaokao-mathcloze"):
        return Task(files, "{question}\n答：" if chinese else "{question}\nAnswer:", kind="write", scorer="number")
    return Task(files, "{passage}\n" + prompt, answer="{letter}" if prompt == _ZH else " {letter}")


AGIEVAL = (
    *("lsat-ar", "lsat-lr", "lsat-rc", "logiqa-en", "logiqa-zh", "sat-math", "sat-en", "sat-en-without-passage"),
    *("aqua-rat", "math", "jec-qa-kd", "jec-qa-ca"),
    *(f"gaokao-{s}" for s in ("chinese", "english", "geography", "history", "biology", "chemistry", "physics")),
    *("gaokao-mathqa", "gaokao-mathcloze"),
)
BIGBENCH_LITE = (
    *("auto_debugging", "bbq_lite_json", "code_line_description", "conceptual_combinations"),
    *("conlang_translation", "emoji_movie", "formal_fallacies_syllogisms_negation", "hindu_knowledge"),
    *("known_unknowns", "language_identification", "linguistics_puzzles", "logic_grid_puzzle"),
    *("logical_deduction", "misconceptions_russian", "novel_concepts", "operators"),
    *("parsinlu_reading_comprehension", "play_dialog_same_or_different", "repeat_copy_logic"),
    *("strange_stories", "strategyqa", "symbol_interpretation", "vitaminc_fact_verification", "winowhy"),
)
LANGUAGES: Mapping[str, str] = {
    **{"python": "python", "cpp": "cpp", "java": "java"},
    **{"js": "javascript", "go": "go", "rust": "rust"},
}
"""name of HumanEval-X's file: name in the sandbox"""
_ENDS = {
    "python": ("\nclass ", "\ndef ", "\n#", "\n@", "\nif ", "\nprint("),
    "cpp": ("\nint main", "\n#include", "\n}\n\n"),
    "java": ("\n    }\n}", "\npublic class"),
    "javascript": ("\n}\n\n", "\nconst ", "\nfunction ", "\n//"),
    "go": ("\nfunc ", "\n}\n\n"),
    "rust": ("\nfn ", "\n}\n\n", "\nmod "),
}


def _code(pattern: str, language: str) -> Task:
    opened = "{prompt}{declaration}" if language == "rust" else "{prompt}"
    files = (Files(pattern, read.program),)
    return Task(files, opened, kind="code", stop=_ENDS[language], max_tokens=512, language=language)


TASKS: dict[str, Task] = {
    "mmlu": Task(
        (Files("mmlu/test/*.csv", read.lettered(), _SUBJECT), Files("mmlu/*.jsonl", read.listed)),
        _LETTERED, header=_MMLU, shots=5, shot_files="mmlu/dev/*.csv",
    ),
    "ceval": Task(
        (Files("ceval/val/*.csv", read.lettered()),),
        _ZH, answer="{letter}", header=_ZH_HEADER, shots=5, shot_files="ceval/dev/*.csv",
    ),
    "cmmlu": Task(
        (Files("cmmlu/test/*.csv", read.lettered("Question", "Answer")),),
        _ZH, answer="{letter}", header=_ZH_HEADER, shots=5, shot_files="cmmlu/dev/*.csv",
    ),
    "lambada": Task((Files("lambada/*.jsonl", read.last_word),), "{before}", answer=" {text}", kind="word"),
    "gsm8k": Task(
        (Files("gsm8k/test.jsonl", read.numbered),), "Question: {question}\nAnswer:", kind="write", scorer="number",
        shots=8, shot_files="gsm8k/train.jsonl", stop=("\nQuestion:",), max_tokens=256,
    ),
    "asdiv": Task(
        (Files("asdiv/*.jsonl", read.numbered),), "Question: {passage} {question}\nAnswer:", kind="write", scorer="number"
    ),
    "logiqa": Task((Files("logiqa/*.jsonl", read.listed),), _PASSAGE),
    "boolq": Task(
        (Files("boolq/*.jsonl", read.labelled({"True": "yes", "False": "no"}, "answer")),),
        "{passage}\nQuestion: {question}?\nAnswer:", answer=" {text}",
    ),
    "commonsenseqa": Task((Files("commonsenseqa/*.jsonl", read.listed),), "Question: {question}\nAnswer:", answer=" {text}"),
    "openbookqa": Task((Files("openbookqa/*.jsonl", read.listed),), "{question}", answer=" {text}"),
    "piqa": Task((Files("piqa/*.jsonl", read.listed),), "Question: {question}\nAnswer:", answer=" {text}"),
    "siqa": Task((Files("siqa/*.jsonl", read.listed),), "{passage}\nQuestion: {question}\nAnswer:", answer=" {text}"),
    "bbq": Task((Files("bbq/*.jsonl", read.listed),), "{passage}\nQuestion: {question}\nAnswer:", answer=" {text}"),
    "parables-zh": Task((Files("parables/*zh.jsonl", read.parable),), "{passage}\n这个故事的寓意是：", answer="{text}"),
    "idioms": Task(
        (Files("idioms/*.jsonl", read.chid),), "{before}", answer="{text}", after="{after}"
    ),
    "crows-pairs": Task((Files("crows-pairs/*.csv", read.stereotype),), "{before}", "{text}", "bias", "{after}"),
    "stereoset": Task((Files("stereoset/*.jsonl", read.stereoset),), "{before}", " {text}", "bias"),
    "clue/afqmc": Task((Files("clue/afqmc*/dev.json", read.labelled(_SAME)),), _PAIR, answer="{text}"),
    "clue/c3": Task((Files("clue/c3*/*dev.json", read.c3),), _READ, answer="{text}"),
    "clue/cmnli": _nli("clue/cmnli*/dev.json"),
    "clue/ocnli": _nli("clue/ocnli*/dev.json"),
    "clue/wsc": Task((Files("clue/*wsc*/dev.json", read.wsc),), "{text}\n其中“{pronoun}”指的是“{name}”吗？答：", answer="{text}"),
    "clue/cmrc": Task((Files("clue/cmrc*/*dev.json", read.squad),), _READ, kind="write", scorer="overlap"),
    "clue/drcd": Task((Files("clue/drcd*/*dev.json", read.squad),), _READ, kind="write", scorer="overlap"),
    "fewclue/eprstmt": Task(
        (Files("fewclue/eprstmt/*.json", read.labelled({"Negative": "差", "Positive": "好"})),),
        "{sentence}\n总的来说，这个东西很", answer="{text}",
    ),
    "fewclue/bustm": Task((Files("fewclue/bustm/*.json", read.labelled(_SAME)),), _PAIR, answer="{text}"),
    "fewclue/ocnli": _nli("fewclue/ocnli/*.json"),
    "fewclue/chid": Task((Files("fewclue/chid/*.json", read.chid),), "{before}", answer="{text}", after="{after}"),
    "fewclue/cluewsc": Task(
        (Files("fewclue/cluewsc/*.json", read.wsc),), "{text}\n其中“{pronoun}”指的是“{name}”吗？答：", answer="{text}"
    ),
    **{f"agieval/{name}": _agieval(name) for name in AGIEVAL},
    **{
        f"bigbench/{name}": Task((Files(f"bigbench/{name}/**/task.json", read.bigbench),), "{prefix}\nQ: {question}\nA:", answer=" {text}")
        for name in BIGBENCH_LITE
    },
    "humaneval": _code("humaneval/HumanEval.jsonl*", "python"),
    **{f"humaneval-x/{name}": _code(f"humaneval-x/{name}.*", language) for name, language in LANGUAGES.items()},
}  # fmt: skip
