"""`glm eval` on files in the benchmarks' own forms, with the bundled model."""

import csv
import json

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
