"""Answers that the network in training gives, as rows for its next steps.

A round: the engine draws answers to some questions from the weights of the moment; they are rewarded, compared with
what was expected, and trained on for some epochs. A round is made when the loop asks for its first row, and kept on
disk until the next, so a run that is stopped in between goes on with the very same answers.

Shapes: T tokens of a row.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from openglm.align.advantages import Advise
from openglm.align.measure import log_probabilities, measure, scores
from openglm.config import RolloutConfig, RolloutRunConfig, require
from openglm.data.dialogue import conversation_sample
from openglm.data.mixture import Mixture, Row, pack
from openglm.data.prompts import Prompt, fingerprint
from openglm.engine.engine import Engine
from openglm.engine.params import Result, SamplingParams
from openglm.files import write_file
from openglm.model.transformer import Transformer
from openglm.quant.layers import quantize_model
from openglm.runtime import say
from openglm.text.steps import END
from openglm.text.thinking import AS_USUAL
from openglm.text.tokenizer import Tokenizer
from openglm.train.run import Session
from openglm.train.state import State

if TYPE_CHECKING:  # it needs httpx
    from openglm.align.endpoint import Endpoint

_HELDOUT = 1 << 40  # stands for a round in the seeds of held-out answers
_SHOWN = 10  # held-out answers kept in the log


Score = Callable[[Sequence[Prompt], Sequence[str]], list[float]]
"""rewards of answers, each to its prompt"""


@dataclass(frozen=True, kw_only=True)
class RolloutRow(Row):
    """One answer, or demonstrations; all arrays have length seq_len. Trained are its tokens and the one that ended
    it."""

    old_logp: NDArray[np.float32]
    """log-probability of each target when it was drawn, as the training code computes it"""
    sampler_logp: NDArray[np.float32]
    """the same as the engine computed it"""
    reference: NDArray[np.float32]
    """under the model that training began with; 0 without a KL penalty"""
    value: NDArray[np.float32]
    """what the value head expected of the rewards to come; 0 without one"""
    advantage: NDArray[np.float32]
    """how much better than expected"""
    returns: NDArray[np.float32]
    """what the value head is to expect"""
    demonstration: NDArray[np.float32]
    """1 at the tokens of a demonstration that are learned as they are; all else is then 0"""


_PLACED = ("old_logp", "sampler_logp", "reference", "value", "advantage", "returns")


@dataclass(frozen=True)
class Answer:
    """What was drawn for a prompt."""

    prompt: list[int]
    ids: list[int]
    """with the token that ended it, if one did, and what tools returned"""
    own: list[int]
    """1 where the model chose the id, 0 where a tool returned it"""
    sampler_logp: list[float | None]
    """of the model's own; None where the sampler does not say"""
    finished: bool
    text: str
    reward: float = 0.0


class Rollouts:
    """Rows of all rounds, one after another; of these, those of one round exist at a time."""

    def __init__(
        self,
        config: RolloutRunConfig,
        prompts: list[Prompt],
        heldout: list[Prompt],
        tokenizer: Tokenizer,
        score: Score,
        advise: Advise,
        demonstrations: Mixture | None,
    ) -> None:
        self.config, self.prompts, self.heldout = config, prompts, heldout
        self.tokenizer, self.score, self.advise = tokenizer, score, advise
        self.demonstrations = demonstrations
        plain = json.dumps([dataclasses.asdict(config.rollout), config.data.seed])
        plain += demonstrations.fingerprint if demonstrations else ""
        self.fingerprint = hashlib.sha256((plain + fingerprint(prompts)).encode()).hexdigest()
        self._round, self._rows = -1, list[RolloutRow]()
        self.reference: Transformer | None = None
        self.endpoint = _endpoint(config.rollout)

    def attach(self, session: Session, state: State) -> None:
        """Called by the loop before the first step."""
        self._session, self._state = session, state

    @property
    def _file(self) -> Path:
        return self._session.out / "round.json"

    def row(self, index: int) -> RolloutRow:
        answers, taken = self.config.rollout.answers, self.config.demonstrations
        step, place = divmod(index, self.config.train.batch_rows)
        if place < taken:
            return self._demonstration(step * taken + place)
        index = step * (self.config.train.batch_rows - taken) + place - taken
        number, place = divmod(index, answers * self.config.rollout.epochs)
        if number != self._round:
            self._rows = self._make(number)
            self._round = number
        epoch, place = divmod(place, answers)
        order = np.random.default_rng((self.config.data.seed, 6, number, epoch)).permutation(answers)
        return self._rows[order[place]]

    def _demonstration(self, number: int) -> RolloutRow:
        """Conversations or plain text, of which nothing but the words is known."""
        assert self.demonstrations is not None
        row = self.demonstrations.row(number)
        nothing: dict[str, Any] = {name: np.zeros(len(row.tokens), np.float32) for name in _PLACED}
        return RolloutRow(**vars(row), **nothing, demonstration=row.loss_mask)

    def _make(self, number: int) -> list[RolloutRow]:
        """The rows of a round: drawn now, or found on disk where the run was stopped inside of it."""
        group, first_step = self._session.group, number * self._steps
        before = group.broadcast(lambda: json.loads(self._file.read_text()) if self._file.is_file() else {})
        inside = self._state.step > first_step
        if inside:
            why = f"lacks the answers of round {number + 1}; start a new run"
            require(before.get("round") == number, "train.out", str(self._file), why)
            return self._rows_of(before)
        if before.get("round") == number:  # stopped after the round was drawn and before its first step
            before = before["before"]
        drawn = self._draw(number)
        kept: dict[str, Any] = {
            "round": number,
            "answers": drawn,
            "sampler_logp": [answer.pop("sampler_logp") for answer in drawn],
        }
        kept |= self._measured(self._plain_rows(drawn))
        kept["sampler_logp"] = _told(kept["sampler_logp"], kept["old_logp"])
        kept |= self.advise([answer["reward"] for answer in drawn], kept, before)
        kept["before"] = {name: value for name, value in before.items() if not isinstance(value, list | dict)}
        if group.first:
            write_file(self._file, json.dumps(kept))
        self._report(kept)
        return self._rows_of(kept)

    @property
    def _steps(self) -> int:
        """Steps of a round."""
        rows = self.config.train.batch_rows - self.config.demonstrations
        return self.config.rollout.answers // rows * self.config.rollout.epochs

    def _draw(self, number: int) -> list[dict[str, Any]]:
        """Answers to the round's questions, as something JSON can carry; the first process draws for all."""
        options, whole = self.config.rollout, self._whole()
        if number % options.eval_rounds == 0:
            self._write({"heldout": self.evaluate(whole)})
        asked = [prompt for prompt in self._questions(number) for _ in range(options.group)]
        return self._session.group.broadcast(
            lambda: [dataclasses.asdict(answer) for answer in self.answers(whole, asked, number, self.endpoint)]
        )

    def _questions(self, number: int) -> list[Prompt]:
        """The questions of a round: all come once before any comes again."""
        count, total = self.config.rollout.questions, len(self.prompts)
        places = range(number * count, (number + 1) * count)
        seed, epochs = self.config.data.seed, {place // total for place in places}
        order = {epoch: np.random.default_rng((seed, 5, epoch)).permutation(total) for epoch in epochs}
        return [self.prompts[order[place // total][place % total]] for place in places]

    def answers(
        self, model: Transformer, prompts: Sequence[Prompt], number: int, endpoint: Endpoint | None = None
    ) -> list[Answer]:
        """One answer to each prompt, from the model alone: no token is kept from it, none made likelier. Raises
        ValueError for a reward that is no number."""
        tokenizer = self.tokenizer
        ids = [tokenizer.render(one.messages, tools=one.tools, generation_prompt=True)[0] for one in prompts]
        seeds = [
            int(np.random.default_rng((self.config.data.seed, 7, number, place)).integers(1 << 62))
            for place in range(len(prompts))
        ]
        drawn = self._ask(endpoint, prompts, ids, seeds) if endpoint else self._generate(model, ids, seeds)
        rewards = self.score(prompts, [one.text for one in drawn])
        wrong = next((place for place, reward in enumerate(rewards) if not math.isfinite(reward)), None)
        what = f"is the reward of {drawn[wrong or 0].text[:60]!r}; rewards must be finite numbers"
        require(wrong is None, "rollout", rewards[wrong or 0], what)
        unfinished = self.config.rollout.unfinished
        return [
            dataclasses.replace(one, reward=reward if one.finished else unfinished)
            for one, reward in zip(drawn, rewards, strict=True)
        ]

    def _generate(self, model: Transformer, ids: list[list[int]], seeds: list[int]) -> list[Answer]:
        """Answers by the engine."""
        options = self.config.rollout
        params = [
            SamplingParams(
                max_tokens=options.max_tokens,
                temperature=options.temperature,
                seed=seed,
                logprobs=0,
                logprobs_as_drawn=True,
            )
            for seed in seeds
        ]
        bits = {"": 0, "int8": 8, "int4": 4}[options.quantize]
        sampler = quantize_model(copy.deepcopy(model), bits, 32) if bits else model
        engine = Engine(sampler, tokenizer=self.tokenizer)
        if options.tools:
            return self._work(engine, ids, params)
        return [
            Answer(asked, one.ids, [1] * len(one.ids), *_told_by(one), one.text)
            for asked, one in zip(ids, engine.generate(ids, params), strict=True)
        ]

    def _work(self, engine: Engine, ids: list[list[int]], params: list[SamplingParams]) -> list[Answer]:
        """Answers that call tools, in as many requests as that takes: each goes on behind what a tool returned, as far
        as a row is long."""
        from openglm.tools.registry import Tools
        from openglm.tools.turn import Turn

        tools, end, room = Tools(), self.tokenizer.special.get(END), self.config.train.seq_len
        turns = [
            Turn(self.tokenizer, tools, (), partial(_as_asked, asked), (), one, room, AS_USUAL)
            for asked, one in zip(ids, params, strict=True)
        ]
        drawn = [Answer(asked, [], [], [], False, "") for asked in ids]
        while waiting := [place for place, turn in enumerate(turns) if not turn.over]:
            requests = [turns[place].request for place in waiting]
            results = engine.generate([prompt for prompt, _ in requests], [one for _, one in requests])
            for place, (prompt, _), result in zip(waiting, requests, results, strict=True):
                turn, before = turns[place], drawn[place]
                logp, finished = _told_by(result)
                turn.advance(result.ids)
                returned = [] if turn.over else turn.request[0][len(prompt) + len(result.ids) :]
                drawn[place] = Answer(
                    before.prompt,
                    before.ids + result.ids + returned,
                    before.own + [1] * len(result.ids) + [0] * len(returned),
                    before.sampler_logp + logp,
                    finished and result.ids[-1] != end,
                    turn.text,
                )
        return drawn

    def _ask(
        self, endpoint: Endpoint, prompts: Sequence[Prompt], ids: list[list[int]], seeds: list[int]
    ) -> list[Answer]:
        """Answers by a model elsewhere."""
        from openglm.align.endpoint import token_ids

        most = self.config.rollout.max_tokens
        usual = {"max_tokens": most, "temperature": 1, "top_p": 1, "top_k": 0, "logprobs": True}
        requests = [
            {**usual, "messages": one.messages, "seed": seed, **({"tools": one.tools} if one.tools else {})}
            for one, seed in zip(prompts, seeds, strict=True)
        ]
        replies = endpoint.ask(requests)
        cut = [token_ids(self.tokenizer, *given, most) for given in zip(prompts, ids, replies, strict=True)]
        silent = sum(bool(tokens) and all(value is None for value in logp) for tokens, logp, _ in cut)
        if silent:
            say(
                f"{silent} of {len(cut)} answers came without log-probabilities of their tokens; the trainer's are used"
            )
        return [
            Answer(asked, tokens, [1] * len(tokens), logp, finished, reply.text)
            for asked, (tokens, logp, finished), reply in zip(ids, cut, replies, strict=True)
        ]

    def _plain_rows(self, answers: list[dict[str, Any]]) -> list[Row]:
        model, rows = self._session.model, []
        for answer in answers:
            trained = [0] * len(answer["prompt"]) + answer["own"]
            ids = answer["prompt"] + answer["ids"]
            sample = conversation_sample(ids, trained, model.tokens, model.span_positions)
            rows.append(pack([sample], self.config.train.seq_len, model.tokens.pad))
        return rows

    def _rows_of(self, kept: dict[str, Any]) -> list[RolloutRow]:
        """The round's rows, with what was measured at the tokens of the answers."""
        nothing: NDArray[np.float32] = np.zeros(self.config.train.seq_len, np.float32)
        found = []
        for number, row in enumerate(self._plain_rows(kept["answers"])):
            placed: dict[str, Any] = {name: _placed(row, kept[name][number]) for name in _PLACED}
            found.append(RolloutRow(**vars(row), **placed, demonstration=nothing))
        return found

    def _measured(self, rows: list[Row]) -> dict[str, list[list[float]]]:
        """Of the answers' tokens: log-probabilities under the policy and the reference, and values."""
        policy, dtype = self._state.pieces[0], self._state.dtype
        at_once = max(1, self._session.own_rows // self.config.train.accumulation)
        logp = log_probabilities(self.config.rollout.temperature)
        wanted = {
            "old_logp": (policy, logp),
            "reference": (self.reference, logp),
            "value": (policy if policy.score is not None else None, scores),
        }
        found = {}
        for name, (model, read) in wanted.items():
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
        """Mean reward on held-out prompts, always with the same random numbers; the first answers go into the log."""
        if not self.heldout:
            return {}

        def measured() -> dict[str, Any]:
            answers = self.answers(model, self.heldout, _HELDOUT)
            shown = [
                (str(one.messages[-1]["content"]), answer.text, round(answer.reward, 3))
                for one, answer in zip(self.heldout[:_SHOWN], answers, strict=False)
            ]
            return {"reward": float(np.mean([answer.reward for answer in answers])), "shown": shown}

        found = self._session.group.broadcast(measured)
        self._write({"answers": found["shown"]})
        return {"reward": found["reward"]}

    def _report(self, kept: dict[str, Any]) -> None:
        """What a round is like, for the log and the user."""
        answers, group = kept["answers"], self.config.rollout.group
        rewards = np.array([answer["reward"] for answer in answers]).reshape(-1, group)
        gaps = [np.abs(np.subtract(*pair)) for pair in zip(kept["old_logp"], kept["sampler_logp"], strict=True)]
        figures = {
            "reward": float(rewards.mean()),
            "length": float(np.mean([len(answer["ids"]) for answer in answers])),
            "finished": float(np.mean([answer["finished"] for answer in answers])),
            "distinct": len({answer["text"] for answer in answers}) / len(answers),
            "largest_sampler_gap": float(np.concatenate(gaps).max()),
        }
        if group > 1:
            figures["groups_alike"] = float((rewards == rewards[:, :1]).all(1).mean())
        figures |= {name: kept[name] for name in ("answer_kl", "kl_coefficient") if name in kept}
        self._write({"round": figures})
        if self._session.group.first:
            shown = ", ".join(f"{name} {value:.3g}" for name, value in figures.items())
            say(f"round {kept['round'] + 1}: {shown}")

    def _write(self, record: dict[str, Any]) -> None:
        if self._session.log and any(record.values()):
            self._session.log.write({"step": self._state.step, **record})


def _as_asked(prompt: list[int], messages: Sequence[Any]) -> tuple[list[int], int]:
    """A turn's prompt, of which nothing had to be left out."""
    return prompt, 0


def _told_by(result: Result) -> tuple[list[float | None], bool]:
    """Log-probabilities of an answer's tokens, and whether it ended."""
    assert not result.error, result.error
    return [token.logprob for token in result.logprobs], result.finish_reason == "stop"


def _endpoint(options: RolloutConfig) -> Endpoint | None:
    """Where answers are drawn, if not here."""
    if not options.endpoint:
        return None
    from openglm.align.endpoint import Endpoint

    return Endpoint(options.endpoint, options.endpoint_model)


def _told(sampler: Sequence[Sequence[float | None]], trainer: Sequence[Sequence[float]]) -> list[list[float]]:
    """Log-probabilities of the sampler, and the trainer's where it does not say."""
    return [
        [theirs if own is None else own for own, theirs in zip(*pair, strict=True)]
        for pair in zip(sampler, trainer, strict=True)
    ]


def _placed(row: Row, values: Sequence[float]) -> NDArray[np.float32]:
    """[T] values of the trained positions, 0 elsewhere."""
    found: NDArray[np.float32] = np.zeros(len(row.tokens), np.float32)
    found[row.loss_mask > 0] = values
    return found
