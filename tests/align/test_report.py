"""The report of a run shows what its log holds, and nothing of it as markup."""

import json
import re

import pytest

from openglm.align.report import series, write_report


def test_curves_pass_through_every_point_and_answers_stay_text(tmp_path):
    log = [
        {"step": 0, "heldout": {"reward": 0.25}},
        {"step": 0, "answers": [["<b>hi</b>?", "<script>alert(1)</script>", 0.0]]},
        {"step": 1, "loss": 2.0, "metrics": {"kl": 0.0}, "wall": {"seconds": 3.0}},
        {"step": 2, "loss": 1.0, "metrics": {"kl": 0.5}, "act": {"do": "skip"}},
        {"step": 4, "loss": 1.5, "metrics": {"kl": 0.25}},
        {"step": 4, "heldout": {"reward": 0.75}},
        {"step": 4, "answers": [["<b>hi</b>?", "fine & well", 1.0]]},
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    assert series(log) == {
        "heldout/reward": [(0, 0.25), (4, 0.75)],
        "loss": [(1, 2.0), (2, 1.0), (4, 1.5)],
        "kl": [(1, 0.0), (2, 0.5), (4, 0.25)],
    }
    text = write_report(tmp_path).read_text(encoding="utf-8")
    assert "<script" not in text and "&lt;script&gt;" in text and "fine &amp; well" in text
    (points,) = re.findall(r'aria-label="loss"><polyline points="([^"]+)"', text)
    x, y = zip(*(map(float, point.split(",")) for point in points.split()), strict=True)
    assert (x[1] - x[0]) / (x[2] - x[0]) == pytest.approx(1 / 3, abs=1e-3)
    assert y[0] < y[2] < y[1] and (y[1] - y[2]) == pytest.approx(y[2] - y[0], abs=0.2)


def test_a_run_reports_the_same_prompts_before_and_after(talker, tmp_path):
    from helpers.pairs import write_prompts
    from helpers.tiny_runs import options

    from openglm.align.online import grpo
    from openglm.config import GRPOConfig, PromptsConfig, RolloutConfig

    file = str(write_prompts(tmp_path / "prompts.jsonl", answer="please, bread"))
    grpo(
        GRPOConfig(
            init_from=str(talker),
            data=PromptsConfig(prompts=file, heldout=file),
            train=options(tmp_path / "run", seq_len=64, batch_rows=16, steps=2, save_every=2),
            rollout=RolloutConfig(check="exact", questions=2, group=8, max_tokens=8),
        )
    )
    text = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert text.count("what about bread?") == 1 and text.count("<tr>") == 9
