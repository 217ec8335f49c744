"""`glm plan`: the keys of its JSON, the flags, and its mistakes."""

import json
import sys

import pytest

from openglm.cli.main import main
from openglm.cli.plan import PlanOptions, fixed_options

GLM = ["plan", "--model", "glm-130b", "--devices", "768", "--device", "a100-40g", "--batch", "4224"]
SMALL = ["plan", "--model", "glm-large", "--devices", "8", "--batch", "64", "--seq", "512"]


def run(capsys, *argv):
    code = main(list(argv))
    out, err = capsys.readouterr()
    return code, out, err


def test_json_has_its_keys_and_adds_up(capsys):
    code, out, err = run(
        capsys, *GLM, "--tensor", "4", "--pipeline", "8", "--data", "24", "--tokens", "400e9", "--price", "2", "--json"
    )
    assert (code, err) == (0, "") and out.count("\n") == 1
    plan = json.loads(out)
    parts = dict(plan["memory_bytes"])
    assert parts.pop("total") == pytest.approx(sum(parts.values()), abs=10)
    assert {"weights", "gradients", "master", "adam", "activations", "buffers"} == set(parts)
    assert plan["step_seconds"] == pytest.approx(sum(plan["seconds"].values()))
    assert plan["bubble"] == pytest.approx(7 / (7 + 176))
    assert (
        plan["layout"]["tensor"],
        plan["layout"]["pipeline"],
        plan["layout"]["data"],
        plan["layout"]["micro_batches"],
    ) == (4, 8, 24, 176)
    assert plan["model_tflops_per_device"] * 768 * plan["step_seconds"] == pytest.approx(
        0.325 * 312 * 768 * 88.5, rel=0.01
    )  # the published FLOPs of a step
    assert plan["days"] == pytest.approx(400e9 / (4224 * 2048) * plan["step_seconds"] / 86400)
    assert plan["cost"] == pytest.approx(plan["days"] * 24 * 768 * 2)


def test_a_shape_is_a_model(capsys):
    shape = [
        "plan",
        "--layers",
        "96",
        "--hidden",
        "12288",
        "--heads",
        "96",
        "--vocab",
        "51200",
        "--devices",
        "384",
        "--batch",
        "1536",
        "--json",
    ]
    plan = json.loads(run(capsys, *shape)[1])
    assert plan["parameters"] == pytest.approx(174.6e9, rel=0.001) and plan["fits"]


def test_the_verb_can_say_what_the_published_runs_are(capsys):
    """InternLM-7B on 1,024 devices, as benchmarks/planner_runs.toml has it: 7.21 s were published."""
    shape = "--layers 32 --hidden 4096 --heads 32 --ffn 11008 --vocab 103168 --causal --untied --network 50"
    layout = "--devices 1024 --batch 8192 --data 1024 --tensor 1 --pipeline 1 --micro-batch 2 --zero 1"
    words = f"plan {shape} {layout} --attention fused --json".split()
    causal = json.loads(run(capsys, *words, "--recompute", "none")[1])
    assert abs(causal["step_seconds"] / 7.21 - 1) <= 0.15
    words.remove("--causal")
    both_ways = json.loads(run(capsys, *words, "--recompute", "none")[1])
    assert both_ways["seconds"]["attention"] == pytest.approx(2 * causal["seconds"]["attention"])


def test_the_table_says_why(capsys):
    code, out, _ = run(capsys, *GLM)
    assert code == 0 and all(
        word in out for word in ("activations", "bubble", "slower", "too large", "divide", "GLM-130B")
    )


@pytest.mark.parametrize(
    "argv,words",
    [
        (["plan", "--devices", "8", "--batch", "8"], ["layers", "--model"]),
        (["plan", "--model", "glm-131b", "--devices", "8", "--batch", "8"], ["glm-131b", "glm-130b"]),
        ([*SMALL, "--layers", "4"], ["layers", "glm-large"]),
        ([*SMALL, "--device", "tpu"], ["device", "tpu", "a100-80g"]),
        ([*SMALL, "--tensor", "-2"], ["tensor", "-2"]),
        ([*SMALL, "--gradient-bytes", "3"], ["gradient_bytes", "3"]),
        ([*SMALL, "--zero", "4"], ["zero", "4"]),
        ([*SMALL, "--data", "3", "--tensor", "1", "--pipeline", "1"], ["devices", "3 x 1 x 1"]),
        (["plan", "--model", "glm-130b", "--devices", "1", "--batch", "8"], ["devices", "GB a device"]),
        (["plan", "--model", "glm-130b", "--devices", "0", "--batch", "8"], ["devices", "0"]),
        ([*SMALL, "--pipeline", "11"], ["no layout", "leave out some of pipeline 11"]),
        (["plan", "--model", "glm-130b", "--batch", "8"], ["devices"]),
    ],
)
def test_mistakes_are_one_line(argv, words, capsys):
    code, out, err = run(capsys, *argv)
    assert (code, out) == (1, "") and err.count("\n") == 1 and all(word in err for word in words), err


@pytest.mark.parametrize("devices", ["1", "8", "12"])
def test_a_multiple_of_the_node_is_advised_only_where_it_is_none(devices, capsys):
    _, _, err = run(capsys, "plan", "--model", "glm-large", "--devices", devices, "--batch", "8", "--pipeline", "11")
    assert ("a multiple of 8" in err) == (devices == "12"), err


def test_a_layout_in_full_is_the_classic_recipe_unless_said_otherwise():
    options = PlanOptions(devices=8, batch=8, data=1, tensor=2, pipeline=4)
    assert {**fixed_options(options)}.items() >= {
        "recompute": "full",
        "schedule": "1f1b",
        "zero": 1,
        "micro_batch": 1,
    }.items()
    options.recompute, options.zero, options.chunks = "none", "0", 2
    assert fixed_options(options).items() >= {"recompute": "none", "schedule": "interleaved", "zero": 0}.items()
    options.pipeline = 0
    assert "micro_batch" not in fixed_options(options)


def test_a_picture(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    code, _, _ = run(
        capsys,
        *SMALL,
        "--batch",
        "16",
        "--pipeline",
        "4",
        "--schedule",
        "1f1b",
        "--picture",
        str(tmp_path / "plan.png"),
    )
    assert code == 0 and [path.name for path in tmp_path.iterdir()] == ["plan.png"]
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")


def test_no_matplotlib_says_which_line_installs_it(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, out, err = run(capsys, *SMALL, "--picture", str(tmp_path / "plan.png"))
    assert (code, out) == (1, "") and err.count("\n") == 1 and "openglm[bench]" in err
