"""The recipe's training runs: each begins where another ends, and their options are good ones."""

import dataclasses
import itertools
import re
from pathlib import Path

from openglm.cli.options import read_toml
from openglm.config import GRPOConfig, PretrainConfig, SFTConfig, from_dict
from openglm.presets import model_preset

RECIPE = Path(__file__).parents[2] / "recipes" / "nano"
RUNS = ("pretrain", "finish", "sft")


def options(name):
    values = read_toml(RECIPE / f"{name}.toml")
    if name != "pretrain":
        return from_dict(SFTConfig, values)
    values["model"] = dataclasses.asdict(model_preset(values.pop("preset"), **values["model"]))
    return from_dict(PretrainConfig, values)


def test_each_run_begins_with_the_model_of_the_one_before():
    runs = [options(name) for name in RUNS]
    for before, after in itertools.pairwise(runs):
        assert after.init_from == f"{before.train.out}/model"
        assert after.train.seq_len <= runs[0].model.max_positions


def test_the_script_makes_all_that_it_publishes():
    script, publish = (RECIPE / "run.sh").read_text(), (RECIPE / "publish.py").read_text()
    places = [script.index(f"recipes/nano/{name}.toml") for name in RUNS] + [script.index("publish.py")]
    assert places == sorted(places)
    assert [f"{options(name).train.out}/model" in publish for name in ("finish", "sft")] == [True, True]


def test_tools_are_learnt_from_what_their_script_writes_and_then_from_rewards():
    tuned, rewarded = options("sft"), from_dict(GRPOConfig, read_toml(RECIPE / "tools_grpo.toml"))
    assert rewarded.init_from == f"{tuned.train.out}/model" and rewarded.rollout.tools
    written = set(re.findall(r'^        "(tools[a-z-]*)":', (RECIPE / "tool_data.py").read_text(), re.M))
    files = {tuned.data.dialogues["tools"], tuned.data.heldout_dialogues["tools"]}
    files |= {rewarded.data.prompts, rewarded.data.heldout}
    assert {Path(file).stem for file in files} <= written
    assert all(f"{Path(file).parent}" == "runs/nano/tools" for file in files)
    assert rewarded.train.seq_len <= options("pretrain").model.max_positions
