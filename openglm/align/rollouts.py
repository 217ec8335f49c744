"""Answers that the network in training gives, as rows for its next steps.

A round: the engine draws answers to some questions from the weights of the moment, they are rewarded and compared
within each question's group, and trained on for some epochs. A round is made when the loop asks for its first row, and
kept on disk until the next, so a run that is stopped in between goes on with the very same answers.

Shapes: T tokens of a row.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from openglm.align.losses import group_advantages
from openglm.align.measure import log_probabilities, measure
from openglm.config import GRPOConfig, require
from openglm.data.dialogue import conversation_sample
from openglm.data.mixture import Row, pack
from openglm.data.prompts import Prompt, fingerprint
from openglm.engine.engine import Engine
from openglm.engine.params import SamplingParams
from openglm.files import write_file
from openglm.model.transformer import Transformer
from openglm.runtime import say
from openglm.text.tokenizer import Tokenizer
from openglm.train.run import Session
from openglm.train.state import State

_HELDOUT = 1 << 40  # stands for a round in the seeds of held-out answers
Score = Callable[[Sequence[Prompt], Sequence[str]], list[float]]
"""rewards of answers, each to its prompt"""


@dataclass(frozen=True, kw_only=True)
class RolloutRow(Row):
    """One answer; all arrays have length seq_len. Trained are its tokens and the one that ended it."""

    old_logp: NDArray[np.float32]
    """log-probability of each target when it was drawn, as the training code computes it"""
    sampler_logp: NDArray[np.float32]
    """the same as the engine computed it"""
    reference: NDArray[np.float32]
    """under the model that training began with; 0 without a KL penalty"""
    advantage: NDArray[np.float32]
    """how much better the answer is than the others to its question"""


@dataclass(frozen=True)
class Answer:
    """What was drawn for a prompt."""

    prompt: list[int]
    ids: list[int]
    """with the token that ended it, if one did"""
    sampler_logp: list[float]
    finished: bool
    text: str
    reward: float


class Rollouts:
    """Rows of all rounds, one after another; of these, those of one round exist at a time."""

    def __init__(
        self, config: GRPOConfig, prompts: list[Prompt], heldout: list[Prompt], tokenizer: Tokenizer, score: Score
    ) -> None:
        self.config, self.prompts, self.heldout, self.tokenizer, self.score = config, prompts, heldout, tokenizer, score
        plain = json.dumps([dataclasses.asdict(config.rollout), config.data.seed, config.by_deviation])
        self.fingerprint = hashlib.sha256((plain + fingerprint(prompts)).encode()).hexdigest()
        self._round, self._rows = -1, list[RolloutRow]()
        self.reference: Transformer | None = None

    def attach(self, session: Session, state: State) -> None:
        """Called by the loop before the first step."""
        self._session, self._state = session, state

    @property
    def _file(self) -> Path:
        return self._session.out / "round.json"

    def row(self, index: int) -> RolloutRow:
        answers = self.config.rollout.answers
        number, place = divmod(index, answers * self.config.rollout.epochs)
        if number != self._round:
            self._rows = self._make(number)
            self._round = number
        epoch, place = divmod(place, answers)
        order = np.random.default_rng((self.config.data.seed, 6, number, epoch)).permutation(answers)
        return self._rows[order[place]]

    def _make(self, number: int) -> list[RolloutRow]:
        """The rows of a round: drawn now, or found on disk where the run was stopped inside of it."""
        group, first_step = self._session.group, number * self._steps
        kept = group.broadcast(lambda: json.loads(self._file.read_text()) if self._file.is_file() else {})
        inside = self._state.step > first_step
        if not inside or kept.get("round") != number:
            require(
                not inside, "train.out", str(self._file), f"lacks the answers of round {number + 1}; start a new run"
            )
            kept = {"round": number, **self._draw(number)}
        answers = [Answer(**answer) for answer in kept["answers"]]
        rows = self._rows_of(answers)
        if "old_logp" not in kept:
            kept |= self._measured(rows)
            if group.first:
                write_file(self._file, json.dumps(kept))
            self._report(number, answers, kept["old_logp"])
        return [
            dataclasses.replace(
                row,
                old_logp=_placed(row, old),
                reference=_placed(row, reference),
                sampler_logp=_placed(row, answer.sampler_logp),
            )
            for row, answer, old, reference in zip(rows, answers, kept["old_logp"], kept["reference"], strict=True)
        ]

    @property
    def _steps(self) -> int:
        """Steps of a round."""
        return self.config.rollout.answers // self.config.train.batch_rows * self.config.rollout.epochs

    def _draw(self, number: int) -> dict[str, Any]:
        """Answers to the round's questions, as something JSON can carry; the first process draws for all."""
        options, whole = self.config.rollout, self._whole()
        if number % options.eval_rounds == 0:
            self._write({"heldout": self.evaluate(whole)})
        asked = [prompt for prompt in self._questions(number) for _ in range(options.group)]

        def draw() -> dict[str, Any]:
            return {"answers": [dataclasses.asdict(answer) for answer in self.answers(whole, asked, number)]}

        return self._session.group.broadcast(draw)

    def _questions(self, number: int) -> list[Prompt]:
        """The questions of a round: all come once before any comes again."""
        count, total = self.config.rollout.questions, len(self.prompts)
        found = []
        for place in range(number * count, (number + 1) * count):
            epoch, index = divmod(place, total)
            found.append(
                self.prompts[np.random.default_rng((self.config.data.seed, 5, epoch)).permutation(total)[index]]
            )
        return found

    def answers(self, model: Transformer, prompts: Sequence[Prompt], number: int) -> list[Answer]:
        """One answer to each prompt, from the model alone: no token is kept from it, none made likelier."""
        options, tokenizer = self.config.rollout, self.tokenizer
        ids = [tokenizer.render(one.messages, tools=one.tools, generation_prompt=True)[0] for one in prompts]
        params = [
            SamplingParams(
                max_tokens=options.max_tokens,
                temperature=options.temperature,
                seed=int(np.random.default_rng((self.config.data.seed, 7, number, place)).integers(1 << 62)),
                logprobs=0,
            )
            for place in range(len(prompts))
        ]
        drawn = Engine(model, tokenizer=tokenizer).generate(ids, params)
        for result in drawn:
            assert not result.error, result.error
        rewards = self.score(prompts, [result.text for result in drawn])
        return [
            Answer(
                prompt=asked,
                ids=result.ids,
                sampler_logp=[token.logprob for token in result.logprobs],
                finished=result.finish_reason == "stop",
                text=result.text,
                reward=reward if result.finish_reason == "stop" else options.unfinished,
            )
            for asked, result, reward in zip(ids, drawn, rewards, strict=True)
        ]

    def _rows_of(self, answers: list[Answer]) -> list[RolloutRow]:
        """Rows that hold all but the log-probabilities."""
        model, seq_len = self._session.model, self.config.train.seq_len
        groups = torch.arange(len(answers)) // self.config.rollout.group
        rewards = torch.tensor([answer.reward for answer in answers])
        advantages = group_advantages(rewards, groups, self.config.by_deviation).tolist()
        nothing: NDArray[np.float32] = np.zeros(seq_len, np.float32)
        found = []
        for answer, advantage in zip(answers, advantages, strict=True):
            ids = np.array(answer.prompt + answer.ids)
            trained: NDArray[np.int64] = np.repeat(np.arange(2), [len(answer.prompt), len(answer.ids)])
            sample = conversation_sample(ids, trained, model.tokens, model.span_positions == "pinned")
            row = pack([sample], seq_len, model.tokens.pad)
            found.append(
                RolloutRow(
                    **{f.name: getattr(row, f.name) for f in dataclasses.fields(Row)},
                    old_logp=nothing,
                    sampler_logp=nothing,
                    reference=nothing,
                    advantage=np.full(seq_len, advantage, np.float32),
                )
            )
        return found

    def _measured(self, rows: list[RolloutRow]) -> dict[str, list[list[float]]]:
        """Log-probabilities of the trained targets under the policy and the reference, and what a round is like."""
        read, dtype = log_probabilities(self.config.rollout.temperature), self._state.dtype
        at_once = max(1, self._session.own_rows // self.config.train.accumulation)
        models = {"old_logp": self._state.pieces[0], "reference": self.reference}
        found = {}
        for name, model in models.items():
            values = measure(model, rows, dtype, read, at_once) if model else (np.zeros(len(r.tokens)) for r in rows)
            found[name] = [v[row.loss_mask > 0].tolist() for v, row in zip(values, rows, strict=True)]
        return found

    def _whole(self) -> Transformer:
        """The network as the engine needs it; its weights are gathered where processes share them."""
        piece = self._state.pieces[0]
        if self._session.group.mesh is None:
            return piece
        model = Transformer(self._session.model)
        with torch.no_grad():
            for name, parameter in piece.named_parameters():
                model.get_parameter(name).copy_(parameter.full_tensor())
        return model.eval()

    def evaluate(self, model: Transformer) -> dict[str, float]:
        """Mean reward on held-out prompts, always with the same random numbers."""
        if not self.heldout:
            return {}

        def measured() -> dict[str, float]:
            answers = self.answers(model, self.heldout, _HELDOUT)
            return {"reward": float(np.mean([answer.reward for answer in answers]))}

        return self._session.group.broadcast(measured)

    def _report(self, number: int, answers: list[Answer], old_logp: list[list[float]]) -> None:
        """What a round is like, for the log and the user."""
        rewards = np.array([answer.reward for answer in answers]).reshape(-1, self.config.rollout.group)
        gaps = [np.abs(np.subtract(old, answer.sampler_logp)) for old, answer in zip(old_logp, answers, strict=True)]
        figures = {
            "reward": float(rewards.mean()),
            "groups_alike": float((rewards == rewards[:, :1]).all(1).mean()),
            "length": float(np.mean([len(answer.ids) for answer in answers])),
            "finished": float(np.mean([answer.finished for answer in answers])),
            "distinct": len({answer.text for answer in answers}) / len(answers),
            "largest_sampler_gap": float(np.concatenate(gaps).max()),
        }
        self._write({"round": figures})
        if self._session.group.first:
            say(f"round {number + 1}: " + ", ".join(f"{name} {value:.3g}" for name, value in figures.items()))

    def _write(self, record: dict[str, Any]) -> None:
        if self._session.log and any(record.values()):
            self._session.log.write({"step": self._state.step, **record})


def _placed(row: Row, values: Sequence[float]) -> NDArray[np.float32]:
    """[T] values of the trained positions, 0 elsewhere."""
    found: NDArray[np.float32] = np.zeros(len(row.tokens), np.float32)
    found[row.loss_mask > 0] = values
    return found
