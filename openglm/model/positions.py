"""Where each token stands and what it may see, derived from token ids by the rule of the family; and the rotary
embedding.

Shapes: B batch, T tokens, S tokens that are seen (T plus a cache), N heads, D head width.
Positions are [B, 2, T]: row 0 the position in the text, row 1 the block position (0 in part A, 1.. inside a generated
span).
Masks are bool [B, 1, T, S], True where row t may look at column s.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from openglm.config import SPAN_GAP, ModelConfig


def training_mask(segment_BT: Tensor, block_position_BT: Tensor, mask: str = "prefix") -> Tensor:
    """Mask of a packed row: inside one sample (segment), part A is seen by all and part B by its own future (GLM,
    arXiv 2103.10360, figure 2). mask: `ModelConfig.mask`; a causal model sees the past alone, in part A too."""
    index = torch.arange(segment_BT.shape[1], device=segment_BT.device)
    same = segment_BT[:, :, None] == segment_BT[:, None, :]
    seen = (index[:, None] >= index[None, :])[None]
    if mask == "prefix":
        seen = seen | (block_position_BT == 0)[:, None, :]
    return (same & seen)[:, None]


def describe(ids_BT: Tensor, padding_mask_BT: Tensor | None, config: ModelConfig) -> tuple[Tensor, Tensor]:
    """Positions [B, 2, T] and mask [B, 1, T, T] of whole sequences (prompt and answer) by the rule of the family.

    padding_mask_BT: True where a token is real; None: all are. Padded columns are seen by none but themselves, which
    keeps every
    softmax finite. Raises ValueError where the rule needs a [MASK] or [gMASK] that the row lacks.
    """
    length = ids_BT.shape[1]
    real = torch.ones_like(ids_BT, dtype=torch.bool) if padding_mask_BT is None else padding_mask_BT.bool()
    index = torch.arange(length, device=ids_BT.device)
    seen = (index[:, None] >= index[None, :])[None]
    if config.mask == "prefix":
        part_b = ((ids_BT == config.tokens.sop) & real).cumsum(1) > 0
        seen = seen | ~part_b[:, None, :]
    mask = (seen & real[:, None, :]) | torch.eye(length, dtype=torch.bool, device=ids_BT.device)
    return positions_of(ids_BT, real, config), mask[:, None]


def positions_of(ids_BT: Tensor, real_BT: Tensor, config: ModelConfig) -> Tensor:
    """Positions [B, 2, T] alone, in time linear in T."""
    # GLM-10B's position table counts padding too; all others number the real tokens.
    counted = torch.ones_like(real_BT) if config.positions == "learned_2d" else real_BT
    running = (counted.cumsum(1) - 1).clamp_min(0)
    if config.span_positions == "gapped":
        return torch.stack([_gapped(ids_BT, real_BT, running, config), torch.zeros_like(running)], dim=1)
    if config.mask == "causal":
        return torch.stack([running, torch.zeros_like(running)], dim=1)
    return torch.stack(
        _span_positions(ids_BT, real_BT, running, (ids_BT == config.tokens.sop) & real_BT, config), dim=1
    )


def _gapped(ids_BT: Tensor, real_BT: Tensor, running_BT: Tensor, config: ModelConfig) -> Tensor:
    """Positions where the k-th [MASK] leaves a gap and the k-th span runs on in it from its left neighbour.

    The mask stands at the end of its gap, next to what follows. A span is `<sop> neighbour span`, and the repeated
    neighbour has the position that it has in the text; a blank that opens the text has none and -1 is that of <sop>.
    """
    text_BT, index = running_BT.clone(), torch.arange(ids_BT.shape[1], device=ids_BT.device)
    short_BT = torch.isin(ids_BT, ids_BT.new_tensor([config.tokens.mask, config.tokens.smask])) & real_BT
    starts_BT = (ids_BT == config.tokens.sop) & real_BT
    for row in range(ids_BT.shape[0]):
        starts = starts_BT[row].nonzero()[:, 0].tolist()
        short = short_BT[row] & (index < starts[0] if starts else True)
        text_BT[row] += (SPAN_GAP - 1) * short.cumsum(0)
        for blank, start in zip(short.nonzero()[:, 0].tolist(), starts, strict=False):
            first = text_BT[row, blank] - SPAN_GAP - (running_BT[row, blank] > 0).long()
            text_BT[row, start:] = first + index[start:] - start
    return text_BT


def _span_positions(
    ids_BT: Tensor, real_BT: Tensor, running_BT: Tensor, starts_BT: Tensor, config: ModelConfig
) -> tuple[Tensor, Tensor]:
    """Text positions, running in part A and, where the family pins them, those of the k-th blank in the k-th span; and
    block positions.
    """
    text, starts_BT = running_BT.clone(), starts_BT.clone()
    for row in range(ids_BT.shape[0] if config.span_positions != "running" else 0):
        starts = starts_BT[row].nonzero()[:, 0]
        if len(starts) == 0:
            continue
        blanks, long = _blanks(ids_BT[row, : starts[0]], real_BT[row, : starts[0]], config)
        if len(blanks) == 0:
            raise ValueError(
                f"input_ids row {row}: <sop> without a [MASK], [sMASK] or [gMASK] before it; put one where text is "
                "missing, or [gMASK] at the end"
            )
        starts_BT[row, starts[len(blanks) :]] = False  # beyond the last blank, <sop> is a token like any other
        if long and config.span_positions == "pinned_mask":
            continue
        late = int(long and config.span_positions == "pinned_late")
        starts = starts[: len(blanks)]
        for blank, start, end in zip(blanks, starts, [*starts[1:], ids_BT.shape[1]], strict=False):
            text[row, start + late : end] = running_BT[row, blank]
    return text, _count_from(starts_BT)


def _blanks(ids_T: Tensor, real_T: Tensor, config: ModelConfig) -> tuple[Tensor, bool]:
    """Where the blanks of a row's part A are, in the order in which spans fill them, and whether they are long ones."""
    short, long = (
        torch.isin(ids_T, ids_T.new_tensor([config.tokens.mask, config.tokens.smask])) & real_T,
        (ids_T == config.tokens.gmask) & real_T,
    )
    if config.positions == "learned_2d":  # GLM-10B takes both kinds in text order
        return (short | long).nonzero()[:, 0], False
    # The later ChatGLM-6B looks for [gMASK] first; its first release and GLM-130B for the short ones.
    use_long = bool(long.any()) if config.span_positions == "pinned" else not bool(short.any())
    return (long if use_long else short).nonzero()[:, 0], use_long


def _count_from(starts_BT: Tensor) -> Tensor:
    """1, 2, 3 .. from every start on; 0 before the first."""
    index = torch.arange(starts_BT.shape[1], device=starts_BT.device)
    last = torch.where(starts_BT, index, -1).cummax(1).values
    return torch.where(last >= 0, index - last + 1, 0)


class Rotary(torch.nn.Module):
    """Rotary position embedding (arXiv 2104.09864) in the three layouts of the family.

    rope: the whole head, turned in halves. rope_2d: the first half of the head by position, the second by block
    position, each in halves. rope_half: the first part of the head in interleaved pairs, the rest untouched.
    YaRN (arXiv 2309.00071) changes frequencies and length for contexts beyond the trained one.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.layout, self.axes = config.positions, 2 if config.positions == "rope_2d" else 1
        self.rotated = config.turned // self.axes
        self.theta, self.half = config.rope_theta, config.rope_fp16_frequencies
        self.yarn = config.yarn

    def frequencies(self, device: torch.device) -> Tensor:
        """Angle of one step of each pair, [rotated / 2]. Made afresh: no buffer that a meta device, a conversion or a
        sharding could lose.
        """
        exponents = torch.arange(0, self.rotated, 2, device=device, dtype=torch.float32) / self.rotated
        powers = self.theta**exponents
        frequencies = 1.0 / powers
        if self.yarn.factor > 1:
            kept = 1 - self._mixed(device)
            frequencies = 1.0 / (self.yarn.factor * powers) * (1 - kept) + frequencies * kept
        return frequencies.half().float() if self.half else frequencies

    def _mixed(self, device: torch.device) -> Tensor:
        """Share of the divided frequency in each pair: 0 for those that turn often in the trained context, 1 for slow
        ones."""

        def pair(turns: float) -> float:
            """Number of the pair, as a fraction, that turns so often in the trained context."""
            length = self.yarn.original_positions / (turns * 2 * math.pi)
            return self.rotated * math.log(length) / (2 * math.log(self.theta))

        low, high = pair(self.yarn.beta_fast), pair(self.yarn.beta_slow)
        if self.yarn.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, self.rotated - 1)
        if low == high:
            high += 0.001
        index = torch.arange(self.rotated // 2, dtype=torch.float32, device=device)
        return ((index - low) / (high - low)).clamp(0, 1)

    def angles(self, positions_B2T: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin, each [B, 1, T, axes, rotated / 2] in fp32, shared by all layers."""
        angle = positions_B2T[:, : self.axes, :, None].float() * self.frequencies(
            positions_B2T.device
        )  # [B, axes, T, F]
        angle = angle.transpose(1, 2)[:, None]
        return angle.cos() * self.yarn.attention_factor, angle.sin() * self.yarn.attention_factor

    def forward(self, x_BNTD: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
        cos, sin = (a.to(x_BNTD.dtype) for a in angles)
        if self.layout == "rope_half":
            turned, rest = x_BNTD.split([self.rotated, x_BNTD.shape[-1] - self.rotated], dim=-1)
            first, second = turned.unflatten(-1, (1, -1, 2)).unbind(-1)  # pairs lie side by side
            turned = torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-1)
            return torch.cat([turned.flatten(-3), rest], dim=-1)
        first, second = x_BNTD.unflatten(-1, (self.axes, 2, -1)).unbind(-2)
        return torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-2).flatten(-3)
