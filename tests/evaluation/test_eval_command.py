"""`glm eval` on files in the benchmarks' own forms, with the bundled model."""

import csv
import json
import pickle
from collections import OrderedDict, defaultdict
from xml.etree import ElementTree

import pytest

from openglm.cli.main import main

CHOICES = ("red", "green", "blue", "black")


@pytest.fixture
def data(tmp_path):
    """MMLU's own files: a question, four choices and a letter in each line, without a header."""
    for split, count in (("dev", 5), ("test", 6)):
        folder = tmp_path / "data" / "mmlu" / split
        folder.mkdir(parents=True)
        with open(folder / f"abstract_algebra_{split}.csv", "w", newline="", encoding="utf-8") as file:
            rows = [[f"What is colour {number}?", *CHOICES, "ABCD"[number % 4]] for number in range(count)]
            csv.writer(file).writerows(rows)
    return tmp_path / "data"


def run(capsys, *argv) -> tuple[int, str, str]:
    code = main(["eval", *map(str, argv)])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_a_score_comes_with_chance_interval_and_letters(data, capsys):
    code, out, err = run(capsys, "nano", "--tasks", "mmlu", "--data", data, "--json")
    assert code == 0, err
    [task] = json.loads(out)["tasks"].values()
    assert task["chance"] == 0.25 and task["items"] == 6
    assert round(task["value"] * 6) == pytest.approx(task["value"] * 6)
    assert sum(task["letters"].values()) == 6


def test_answers_that_are_kept_are_not_asked_for_again(data, tmp_path, capsys):
    """A second run over the kept answers gives the same figures, also where the last answers were lost."""
    argv = ("nano", "--tasks", "mmlu", "--data", data, "--out", tmp_path / "out", "--json")
    _, first, _ = run(capsys, *argv)
    kept = tmp_path / "out" / "answers.jsonl"
    lines = kept.read_text(encoding="utf-8").splitlines(keepends=True)
    kept.write_text("".join(lines[: len(lines) // 2]), encoding="utf-8")
    _, second, _ = run(capsys, *argv)
    assert json.loads(first)["tasks"] == json.loads(second)["tasks"]


def test_results_are_compared_on_the_same_questions_alone(data, tmp_path, capsys):
    for name, limit in (("all", 0), ("again", 0), ("some", 3)):
        run(capsys, "nano", "--tasks", "mmlu", "--data", data, "--limit", limit, "--out", tmp_path / name)
    files = [tmp_path / name / "results.json" for name in ("all", "again", "some")]
    code, out, err = run(capsys, "--compare", *files[:2])
    assert code == 0 and "| 0.0 |" in out, err
    code, _, err = run(capsys, "--compare", *files[1:])
    assert code == 1 and "other questions" in err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["nano", "--tasks", ""], "tasks"),
        (["nano", "--tasks", "no-such-task"], "no-such-task"),
        (["nano", "--tasks", "logiqa"], "logiqa"),
        (["nano", "--compare", "missing.json", "missing.json"], "missing.json"),
    ],
)
def test_wrong_options_are_one_line(argv, said, data, capsys):
    code, out, err = run(capsys, *argv, "--data", data)
    [line] = [line for line in err.splitlines() if line.startswith("glm eval")]
    assert code == 1 and not out and said in line


def test_a_line_without_its_choices_is_named(data, capsys):
    file = data / "mmlu" / "test" / "abstract_algebra_test.csv"
    file.write_text("What is this?,red\n", encoding="utf-8")
    code, _, err = run(capsys, "nano", "--tasks", "mmlu", "--data", data)
    assert code == 1 and "abstract_algebra_test.csv" in err and "Traceback" not in err


def test_a_suite_says_what_it_leaves_out_and_a_task_by_name_is_refused(data, capsys):
    code, out, err = run(capsys, "nano", "--tasks", "deck-scenarios", "--data", data, "--json")
    assert code == 0 and "gsm8k is left out" in err
    suite = json.loads(out)["suites"]["deck-scenarios"]
    assert "gsm8k" in suite["without"] and "mmlu" not in suite["without"] and suite["value"] is not None
    code, out, err = run(capsys, "nano", "--tasks", "mmlu,gsm8k", "--data", data)
    assert code == 1 and not out and "gsm8k" in err


def test_several_models_are_one_report_with_published_bars(data, tmp_path, capsys):
    for name in ("one", "two", "three"):
        code, _, err = run(capsys, "nano", "--tasks", "mmlu", "--data", data, "--axes", "--out", tmp_path / name)
        assert code == 0, err
    files = [tmp_path / name / "results.json" for name in ("one", "two", "three")]
    for number, file in enumerate(files):
        result = json.loads(file.read_text(encoding="utf-8"))
        file.write_text(json.dumps({**result, "model": f"<model {number}>"}), encoding="utf-8")
    code, out, _ = run(capsys, "--compare", *files, "--out", tmp_path / "all")
    assert code == 0 and out.count("| mmlu |") == 2
    picture = ElementTree.parse(tmp_path / "all" / "report.svg").getroot()
    shown = " ".join(picture.itertext())
    assert all(f"<model {number}>" in shown for number in range(3)) and "44.8 GLM-130B" in shown
    page = (tmp_path / "all" / "report.html").read_text(encoding="utf-8")
    assert "<model" not in page and "calibration" in page and "robustness" in page


def test_bits_a_byte_are_the_same_for_a_text_in_one_file_or_in_two(tmp_path, capsys):
    text = "The cat sat on the mat. " * 3
    found = []
    for name, pieces in (("one", [text]), ("two", [text, text])):
        (tmp_path / name).mkdir()
        for number, piece in enumerate(pieces):
            (tmp_path / name / f"{number}.txt").write_text(piece, encoding="utf-8")
        _, out, _ = run(capsys, "nano", "--tasks", "bits-per-byte", "--data", tmp_path / name, "--json")
        found.append(json.loads(out)["tasks"]["bits-per-byte"])
    assert found[0]["value"] == pytest.approx(found[1]["value"], rel=1e-5) and 0 < found[0]["value"] < 8
    assert found[1]["tokens"] == 2 * found[0]["tokens"]


def test_words_of_a_pickled_tokenizer_are_read_without_loading_it():
    from openglm.evaluation.toxicity import _counts

    counts = OrderedDict([("".join(["word_", "counts"]), 3), ("the", 70000), ("naïve", 300), ("x" * 300, 1)])
    stored = {"word_counts": counts, "word_docs": defaultdict(int, {"the": 9}), "num_words": 20000, "evil": Evil()}
    assert list(_counts(pickle.dumps(stored))) == list(counts.items())


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("was loaded",))
