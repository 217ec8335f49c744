"""What alignment does to nano: verse and sums by GRPO, reviews by a reward model, DPO and PPO.

    python recipes/nano/reward_data.py --out runs/questions && python recipes/nano/review_data.py --out runs/reviews
    python benchmarks/nano/alignment.py verse --out runs/verse --seeds 1 2 3 --text runs/nano/text

Each seed is a run of its own in --out; called again, it goes on. Before and after: answers to the held-out questions
with the same random numbers, and plain text that was held out of pre-training. Writes results.json and results.md.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
import left_to_right as l2r
from blanks import wilson

import openglm
from openglm.align.checks import CHECKS
from openglm.align.measure import log_probabilities, measure
from openglm.align.online import grpo, ppo
from openglm.align.pairs import dpo, read_pairs, reward, rewards
from openglm.align.reward_model import RewardModel
from openglm.align.verse import judge
from openglm.config import (
    DataConfig,
    DPOConfig,
    GRPOConfig,
    OptimizerConfig,
    PairsConfig,
    PPOConfig,
    PromptsConfig,
    RewardConfig,
    RolloutConfig,
    SFTConfig,
    TrainConfig,
)
from openglm.data.dialogue import conversation_sample
from openglm.data.mixture import pack
from openglm.data.preferences import CHOSEN, REJECTED
from openglm.data.prompts import Prompt, read_prompts
from openglm.engine.params import SamplingParams
from openglm.train.run import Result
from openglm.train.sft import sft

LONGEST = 1000  # characters of a held-out text: no source counts for its long documents

Scores = dict[str, np.ndarray]
"""name -> [questions] a number for each answer"""


@dataclass
class Answered:
    """Answers of one model to the held-out questions."""

    texts: list[str]
    finished: np.ndarray
    kl: np.ndarray
    """[questions] log-probability of the answer under its model, less that under the model before"""


def train_options(out: Path, steps: int, **more) -> TrainConfig:
    given = {"seq_len": 128, "batch_rows": 64, "accumulation": 4, "save_every": 20, "log_every": 5, "ema": 0.0}
    return TrainConfig(out=str(out), steps=steps, **{**given, **more})


def adam(lr: float, schedule: str = "constant") -> OptimizerConfig:
    return OptimizerConfig(name="adamw", lr=lr, schedule=schedule, warmup_ratio=0.02)


@torch.no_grad()
def answer(model, before, tokenizer, prompts: Sequence[Prompt], tokens: int, temperature: float) -> Answered:
    ids = [tokenizer.render(one.messages, generation_prompt=True)[0] for one in prompts]
    params = [SamplingParams(max_tokens=tokens, temperature=temperature, seed=i) for i in range(len(ids))]
    drawn = openglm.Engine(model, tokenizer=tokenizer).generate(ids, params)
    rows = []
    for asked, one in zip(ids, drawn, strict=True):
        trained = np.repeat(np.arange(2), [len(asked), len(one.ids)])
        whole = np.array(asked + one.ids)
        sample = conversation_sample(whole, trained, model.config.tokens, model.config.span_positions)
        rows.append(pack([sample], len(sample), model.config.tokens.pad))
    finished = np.array([one.finish_reason == "stop" for one in drawn])
    if model is before:
        return Answered([one.text for one in drawn], finished, np.zeros(len(drawn)))
    sums = [
        np.array([values.sum() for values in measure(each, rows, torch.float32, log_probabilities(temperature))])
        for each in (model, before)
    ]
    return Answered([one.text for one in drawn], finished, sums[0] - sums[1])


def verse_scores(prompts: Sequence[Prompt], texts: Sequence[str]) -> Scores:
    found = [judge(text, one.known["width"]) for one, text in zip(prompts, texts, strict=True)]
    rules = np.array([(one.form, one.tones, one.rhyme, one.fresh) for one in found]) == 1
    theme = [bool(set(one.known["theme"]) & set(text)) for one, text in zip(prompts, texts, strict=True)]
    scores = dict(zip(("form", "tones", "rhyme", "fresh"), rules.T, strict=True))
    return {**scores, "form, tones and rhyme": rules[:, :3].all(1), "theme": np.array(theme)}


def sum_scores(prompts: Sequence[Prompt], texts: Sequence[str]) -> Scores:
    check = CHECKS["arithmetic"]
    return {"right": np.array([check(one, text) > 0 for one, text in zip(prompts, texts, strict=True)])}


@dataclass
class Text:
    """Held-out plain text: perplexity says what was forgotten."""

    held: list[l2r.HeldOut]

    @classmethod
    def read(cls, folder: Path, tokenizer, documents: int) -> Text:
        held = []
        for file in sorted(folder.glob("*-heldout.jsonl")):
            lines = file.read_text(encoding="utf-8").splitlines()
            texts = [json.loads(line)["text"][:LONGEST] for line in lines[:documents]]
            ids = [np.array(tokenizer.encode(text), np.int64) for text in texts]
            sizes = np.array([len(text.encode()) for text in texts])
            held.append(l2r.HeldOut(file.name.removesuffix("-heldout.jsonl"), "all", ids, sizes))
        return cls(held)

    def nats(self, model) -> np.ndarray:
        return np.concatenate([l2r.document_nats(model, one) for one in self.held])

    def tokens(self) -> int:
        return int(sum(one.tokens.sum() for one in self.held))


def paired(before: np.ndarray, after: np.ndarray, seed: int = 1) -> tuple[float, float, float]:
    """Mean of the differences and its 95 % interval, by bootstrap over questions."""
    differences = after.astype(float) - before.astype(float)
    rng = np.random.default_rng(seed)
    means = [rng.choice(differences, len(differences)).mean() for _ in range(2000)]
    return float(differences.mean()), *map(float, np.percentile(means, [2.5, 97.5]))


def wins(before: np.ndarray, after: np.ndarray, longer: np.ndarray, seed: int = 1) -> list[tuple[float, float, float]]:
    """Share of questions on which the second answer has the higher score, and the same where both are equally long:
    the intercept of a line through wins and lengths (as in arXiv 2404.04475). Each with its 95 % interval by bootstrap."""
    won = (after > before) + (after == before) / 2
    rng = np.random.default_rng(seed)
    places = [np.arange(len(won)), *(rng.integers(0, len(won), len(won)) for _ in range(2000))]
    found = np.array([(won[place].mean(), np.polyfit(longer[place], won[place], 1)[1]) for place in places])
    return [(float(all_), *map(float, np.percentile(drawn, [2.5, 97.5]))) for all_, *drawn in found.T]


class Comparison:
    """One model before, several after, on the same questions and texts."""

    def __init__(self, args: argparse.Namespace, folder: str, prompts: list[Prompt], score, tokens: int) -> None:
        self.args, self.prompts, self.score, self.tokens = args, prompts, score, tokens
        self.tokenizer, self.model = openglm.load_tokenizer(folder), openglm.load_model(folder, dtype="float32")
        self.text = Text.read(args.text, self.tokenizer, args.documents)
        self.results: dict[str, dict] = {}
        self.answered: dict[str, Answered] = {}
        self.nats: dict[str, np.ndarray] = {}
        self.add("before", self.model)

    def add(self, name: str, model) -> None:
        found = answer(model, self.model, self.tokenizer, self.prompts, self.tokens, self.args.temperature)
        scores = {**self.score(self.prompts, found.texts), "finished": found.finished}
        self.answered[name], self.nats[name] = found, self.text.nats(model)
        first = self.results.get("before")
        row: dict[str, object] = {"scores": {key: float(values.mean()) for key, values in scores.items()}}
        row["intervals"] = {
            key: wilson(int(values.sum()), len(values)) for key, values in scores.items() if values.dtype == bool
        }
        row["kl"], row["characters"] = float(found.kl.mean()), float(np.mean([len(text) for text in found.texts]))
        row["distinct"] = len(set(found.texts)) / len(found.texts)
        row["perplexity"] = float(np.exp(self.nats[name].sum() / self.text.tokens()))
        row["all"] = {key: values.astype(float).tolist() for key, values in scores.items()}
        if first:
            row["gain"] = {key: paired(np.array(first["all"][key]), values) for key, values in scores.items()}
            longer = np.subtract(*([len(text) for text in self.answered[one].texts] for one in (name, "before")))
            judged = {key: values for key, values in scores.items() if values.dtype != bool}
            row["wins"] = {key: wins(np.array(first["all"][key]), values, longer) for key, values in judged.items()}
        self.results[name] = row
        self.write()

    def write(self) -> None:
        out = self.args.out
        shown = {
            name: [found.texts[i] for i in range(0, len(found.texts), len(found.texts) // 10)][:10]
            for name, found in self.answered.items()
        }
        (out / "results.json").write_text(json.dumps({"results": self.results, "answers": shown}, ensure_ascii=False))
        keys = list(self.results["before"]["scores"])
        base = self.results["before"]["perplexity"]
        lines = [f"| | {' | '.join(keys)} | distinct | KL, nats an answer | characters | perplexity of text |"]
        lines.append("|---" * (len(keys) + 5) + "|")
        for name, row in self.results.items():
            cells = []
            for key in keys:
                cell = f"{row['scores'][key]:.3f}"
                if key in row["intervals"]:
                    low, high = row["intervals"][key]
                    cell = f"{100 * row['scores'][key]:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
                if "gain" in row and key not in row["intervals"]:
                    cell += " ({:+.3f}, {:+.3f} to {:+.3f})".format(*row["gain"][key])
                cells.append(cell)
            change = f"{row['perplexity']:.2f} ({100 * (row['perplexity'] / base - 1):+.1f} %)"
            cells += [f"{row['distinct']:.2f}", f"{row['kl']:.2f}", f"{row['characters']:.1f}", change]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        for name, row in self.results.items():
            for key, shares in row.get("wins", {}).items():
                said = ["{:.1f} % ({:.1f} to {:.1f})".format(*(100 * each for each in share)) for share in shares]
                lines += ["", f"{name}, {key}: wins {said[0]} of the questions; at equal length {said[1]}"]
        lines += ["", "Answers by number, before and after:", ""]
        lines += [f"* {name}: {text!r}" for name, texts in shown.items() for text in texts]
        (out / "results.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print("\n".join(lines))


def checked(args: argparse.Namespace, check: str, score: Callable, tokens: int, lr: float, beta: float) -> None:
    """GRPO on questions whose answers can be checked."""
    files = {side: str(args.questions / f"{check_file(check)}{side}.jsonl") for side in ("", "-heldout")}
    comparison = Comparison(args, args.model, read_prompts(files["-heldout"], "questions"), score, tokens)
    rows = args.replay_rows if args.replay else 0
    for seed in args.seeds:
        out = args.out / str(seed)
        config = GRPOConfig(
            init_from=args.model,
            data=PromptsConfig(prompts=files[""], seed=seed, demonstrations=args.replay),
            train=train_options(out, args.steps, batch_rows=128 + rows, seq_len=tokens + 28),
            rollout=RolloutConfig(check=check, questions=32, group=8, max_tokens=tokens, temperature=args.temperature),
            optimizer=replace(adam(lr, "linear"), decay_ratio=args.fall, min_lr_ratio=0.02),
            beta=beta,
            demonstration_rows=rows,
            demonstration_weight=args.replay_weight,
        )
        model = openglm.load_model(finished(grpo(config)), dtype="float32")
        comparison.add(f"seed {seed}", model)
        for share in args.between:
            comparison.add(f"seed {seed}, {share:g} of the way", between(comparison.model, model, share))


def between(before, after, share: float):
    """A model whose weights lie on the way from the one to the other (arXiv 2109.01903)."""
    found, there = copy.deepcopy(before), after.state_dict()
    found.load_state_dict({name: torch.lerp(here, there[name], share) for name, here in before.state_dict().items()})
    return found


def finished(result: Result) -> str:
    """Folder of what was trained; where a run was stopped, the program ends."""
    if result.model is None:
        sys.exit("stopped; the same command goes on")
    return str(result.model)


def check_file(check: str) -> str:
    return {"verse": "verse", "arithmetic": "sums"}[check]


def reviews(args: argparse.Namespace) -> None:
    """A writer of reviews, two reward models, and DPO and PPO towards the first; the second one judges."""
    files, out = args.questions, args.out
    learning = SFTConfig(
        init_from=args.model,
        data=DataConfig(dialogues={"reviews": str(files / "chats.jsonl")}),
        train=train_options(out / "writer", args.writer_steps, batch_rows=16),
        optimizer=adam(1e-3, "cosine"),
    )
    writer = finished(sft(learning))
    judges = {}
    for half in "ab":
        config = RewardConfig(
            init_from=writer,
            data=PairsConfig(pairs=str(files / f"pairs-{half}.jsonl"), heldout=str(files / "pairs-heldout.jsonl")),
            train=train_options(out / f"judge-{half}", args.judge_steps, batch_rows=16, eval_every=args.judge_steps),
            optimizer=adam(3e-4, "cosine"),
        )
        judges[half] = finished(reward(config))
        report_judge(config, judges[half], args.questions / "pairs-heldout.jsonl")
    report_judge(config, judges["b"], args.questions / "hhh.jsonl")
    gold, proxy = (RewardModel(judges[half]) for half in "ba")

    def score(prompts: Sequence[Prompt], texts: Sequence[str]) -> Scores:
        return {"judge": np.array(gold(prompts, texts)), "reward model": np.array(proxy(prompts, texts))}

    prompts = read_prompts(files / "prompts-heldout.jsonl", "questions")[: args.prompts]
    comparison = Comparison(args, writer, prompts, score, 64)
    for seed in args.seeds:
        preferred = dpo(
            DPOConfig(
                init_from=writer,
                data=PairsConfig(pairs=str(files / "pairs-a.jsonl"), seed=seed),
                train=train_options(out / f"dpo-{seed}", args.steps, batch_rows=32),
                optimizer=adam(1e-4),
            )
        )
        rewarded = ppo(
            PPOConfig(
                init_from=writer,
                data=PromptsConfig(prompts=str(files / "prompts.jsonl"), seed=seed),
                train=train_options(out / f"ppo-{seed}", args.steps, batch_rows=64, seq_len=80),
                rollout=RolloutConfig(
                    reward_model=judges["a"], questions=128, group=1, epochs=2, max_tokens=64, unfinished=-2.0
                ),
                optimizer=adam(1e-4),
                kl=0.03,
            )
        )
        for name, result in (("DPO", preferred), ("PPO", rewarded)):
            comparison.add(f"{name}, seed {seed}", openglm.load_model(finished(result), dtype="float32"))


def report_judge(config: RewardConfig, folder: str, file: Path) -> None:
    """Accuracy on held-out pairs, and how far the length of an answer says its reward."""
    model, tokenizer = openglm.load_model(folder, dtype="float32"), openglm.load_tokenizer(folder)
    data = PairsConfig(pairs=str(file))
    train = replace(config.train, seq_len=model.config.max_positions)
    rows, _ = read_pairs(RewardConfig(init_from=folder, data=data, train=train), model.config, tokenizer)
    found = rewards(model, rows, torch.bfloat16)
    chosen, rejected = found[:, CHOSEN], found[:, REJECTED]
    right, count = int((chosen > rejected).sum()), len(chosen)
    lengths = np.array([[int((side.loss_mask > 0).sum()) for side in pair] for pair in rows.samples])
    both = np.concatenate([chosen, rejected]), np.concatenate([lengths[:, CHOSEN], lengths[:, REJECTED]])
    low, high = wilson(right, count)
    print(
        f"{Path(folder).parent.name}, {file.stem}: {right} of {count} pairs right, {100 * right / count:.1f} % "
        f"({100 * low:.1f} to {100 * high:.1f}); correlation of reward and length {np.corrcoef(*both)[0, 1]:+.2f}"
    )


def stops(args: argparse.Namespace) -> None:
    """How many answers to the first questions of held-out conversations end by themselves, with nano's own sampling."""
    tokenizer, model = openglm.load_tokenizer(args.model), openglm.load_model(args.model)
    records = [json.loads(line) for line in args.questions.read_text(encoding="utf-8").splitlines()]
    prompts = [Prompt([record["messages"][0]]) for record in records if record["messages"][0]["role"] == "user"]
    found = answer(model, model, tokenizer, prompts, 256, args.temperature)
    ended, count = int(found.finished.sum()), len(prompts)
    low, high = wilson(ended, count)
    print(f"{ended} of {count} answers end, {100 * ended / count:.1f} % ({100 * low:.1f} to {100 * high:.1f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("verse", "sums", "reviews", "stops"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--questions", type=Path, required=True, help="folder that the recipe's script wrote")
    parser.add_argument(
        "--text", type=Path, required=True, help="folder of *-heldout.jsonl, from build_corpus.py --text"
    )
    parser.add_argument("--model", default="nano")
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3], help="none: before alone")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--lr", type=float, default=2e-4, help="of GRPO")
    parser.add_argument("--between", type=float, nargs="*", default=[], help="also weights so far on the way")
    parser.add_argument("--fall", type=float, default=0.0, help="share of GRPO's steps over which its rate falls")
    parser.add_argument("--replay", default="", help="corpus that GRPO learns beside the answers")
    parser.add_argument("--replay-rows", type=int, default=16, help="of it, beside the 128 answers of a step")
    parser.add_argument("--replay-weight", type=float, default=1.0, help="of a token of it; one of an answer counts 1")
    parser.add_argument("--writer-steps", type=int, default=400)
    parser.add_argument("--judge-steps", type=int, default=300)
    parser.add_argument("--prompts", type=int, default=595, help="held-out questions of `reviews`")
    parser.add_argument("--documents", type=int, default=30, help="held-out texts of each source")
    parser.add_argument("--temperature", type=float, default=1.0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.part == "verse":
        checked(args, "verse", verse_scores, 44, args.lr, 0.02)
    elif args.part == "sums":
        checked(args, "arithmetic", sum_scores, 20, args.lr, 0.02)
    elif args.part == "reviews":
        reviews(args)
    else:
        stops(args)


if __name__ == "__main__":
    main()
