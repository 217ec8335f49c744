"""Programs in their languages: right ones pass, wrong and hostile ones fail, and one that never came is neither."""

import json
import shutil

import pytest

from openglm.evaluation import code
from openglm.evaluation.models import Likelihood
from openglm.evaluation.run import Options, evaluate
from openglm.evaluation.tasks import LANGUAGES, TASKS, find

COMPILERS = {"cpp": "g++", "java": "javac", "js": "node", "go": "go", "rust": "rustc"}
# One problem in HumanEval-X's fields for each language: a sum, with tests that use what the benchmark's tests use.
PROBLEMS = {
    "python": {
        "prompt": "def add(a: int, b: int) -> int:\n", "canonical_solution": "    return a + b\n",
        "test": "def check(add):\n    assert add(2, 3) == 5\n\ncheck(add)",
    },
    "cpp": {
        "prompt": "#include<vector>\nusing namespace std;\nint add(vector<int> n){\n",
        "canonical_solution": "    int s = 0;\n    for (int x : n) s += x;\n    return s;\n}\n",
        "test": "#undef NDEBUG\n#include<assert.h>\nint main(){\n    assert (add({2, 3}) == 5);\n}\n",
    },
    "java": {
        "prompt": "import java.util.*;\n\nclass Solution {\n    public int add(int a, int b) {\n",
        "canonical_solution": "        return a + b;\n    }\n}",
        "test": "public class Main {\n    public static void main(String[] args) {\n        Solution s = new Solution();\n"
        "        if (s.add(2, 3) != 5) {\n            throw new AssertionError();\n        }\n    }\n}",
    },
    "js": {
        "prompt": "const add = (a, b) => {\n", "canonical_solution": "  return a + b\n}\n\n",
        "test": "const testAdd = () => {\n  console.assert(add(2, 3) === 5)\n}\n\ntestAdd()\n",
    },
    "go": {
        "prompt": 'import (\n    "strings"\n)\n\nfunc Add(a string, b string) string {\n', "import": 'import (\n    "strings"\n)\n',
        "canonical_solution": "    return strings.Join([]string{a, b}, fmt.Sprint())\n}\n\n",  # fmt is not imported there
        "test_setup": 'package main\n\nimport (\n    "testing"\n    "github.com/stretchr/testify/assert"\n)\n',
        "test": 'func TestAdd(t *testing.T) {\n    assert := assert.New(t)\n    assert.Equal("ab", Add("a", "b"))\n}\n',
    },
    "rust": {
        "prompt": "\n/*\n Add them.\n*/\n", "declaration": "\nuse std::collections::HashSet;\nuse rand::Rng;\n\nfn add(a: i32, b: i32) -> i32{\n",
        "canonical_solution": "    return a + b;\n}\n",
        "test": "\n#[cfg(test)]\nmod tests {\n    use super::*;\n\n    #[test]\n    fn test_add() {\n        assert_eq!(add(2, 3), 5);\n    }\n\n}\n",
    },
}  # fmt: skip
WRONG = {
    **{"python": "    return a - b\n", "cpp": "    return 4;\n}\n", "java": "        return 4;\n    }\n}"},
    **{"js": "  return 4\n}\n", "go": "    return strings.ToUpper(a)\n}\n", "rust": "    return a - b;\n}\n"},
}


class Written:
    """A model that writes what it is told to; None: it fails."""

    name = fingerprint = "written"

    def __init__(self, texts):
        self.texts = texts

    def write(self, writings):
        yield from enumerate(self.texts[: len(writings)])

    def likelihoods(self, queries):
        yield from ((number, Likelihood(0.0, True)) for number in range(len(queries)))

    def fits(self, text, room):
        return True


@pytest.fixture
def data(tmp_path):
    """A folder as it is published: humaneval-x/LANG/data/humaneval_LANG.jsonl."""
    for language, problem in PROBLEMS.items():
        folder = tmp_path / "humaneval-x" / language / "data"
        folder.mkdir(parents=True)
        row = {"task_id": f"{LANGUAGES[language]}/0", "declaration": problem["prompt"], **problem}
        lines = [json.dumps({**row, "task_id": f"{LANGUAGES[language]}/{number}"}) for number in range(2)]
        (folder / f"humaneval_{language}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_right_program_passes_and_a_wrong_one_does_not(language, data):
    if language in COMPILERS and not shutil.which(COMPILERS[language]):
        pytest.skip(f"needs {COMPILERS[language]}")
    right = PROBLEMS[language]["canonical_solution"]
    for name in (f"humaneval-x/{language}", "translate/js-" + language if language != "js" else "translate/python-js"):
        found = evaluate(Written([right, WRONG[language]]), name, TASKS[name], Options(data))
        assert found["scores"] == [1.0, 0.0] and found["pass@1"] == 0.5


def test_a_translation_shows_the_other_program_and_not_what_it_is_to_do(data):
    items, _ = find(TASKS["translate/cpp-rust"], data)
    prompt = TASKS["translate/cpp-rust"].ask(items[0])
    assert (
        "s += x;" in prompt and prompt.rstrip().endswith("fn add(a: i32, b: i32) -> i32{") and "Add them" not in prompt
    )


@pytest.mark.parametrize(
    "body",
    [
        "    while True: pass\n",
        "    import os\n    while True: os.fork()\n",
        "    import os\n    [os.fork() for _ in range(200)]\n    while True: pass\n",
        "    x = []\n    while True: x.append(bytearray(1 << 24))\n",
        "    while True: print('x' * 4096)\n",
        "    import os, signal\n    os.kill(os.getppid(), signal.SIGKILL)\n",
        "    import sys\n    sys.exit(1)\n",
        "    return a +\n",
        "\x00\ud7ff",
    ],
    ids=["loop", "fork bomb", "many forks", "memory", "output", "kill", "exit", "syntax", "odd characters"],
)
def test_hostile_programs_end_and_fail(body, monkeypatch):
    monkeypatch.setattr(code, "_SECONDS", 2.0)
    fields = {"entry_point": "", "after": "", **PROBLEMS["python"]}
    bad, good = code.program("python", fields, body), code.program("python", fields, "    return a + b\n")
    assert code.check_all("both", "python", [bad, good]) == [False, True]


def test_a_program_that_did_not_come_is_missing_and_no_failure(data):
    right = PROBLEMS["python"]["canonical_solution"]
    found = evaluate(Written([None, right]), "python", TASKS["humaneval-x/python"], Options(data))
    assert found["missing"] == [0] and found["scores"] == [None, 1.0]
    assert found["value"] is None and "pass@1" not in found


def test_several_programs_a_problem_give_unbiased_shares(data):
    right, wrong = PROBLEMS["python"]["canonical_solution"], WRONG["python"]
    texts = [right] * 3 + [wrong] * 7 + [wrong] * 10
    found = evaluate(Written(texts), "python", TASKS["humaneval-x/python"], Options(data, samples=10))
    assert found["pass@1"] == pytest.approx(0.15) and found["pass@10"] == 0.5
