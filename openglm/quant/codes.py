"""The number format: symmetric integer codes with half-precision scales, for groups of a row's columns or for whole
rows.

A weight is `scale * code`. 8 bits: int8 [O, I], codes -127..127. 4 bits: uint8 [O, I / 2], two codes -8..7 a byte in
two's complement, the even column in the high half, which is the layout of the published ChatGLM checkpoints (they have
one scale a row and leave -8 out).
Shapes: O rows (outputs), I columns (inputs), G groups of a row.
"""

import torch
from torch import Tensor

from openglm.config import require
from openglm.runtime import in_threads

LOWEST = {8: -127, 4: -8}
HIGHEST = {8: 127, 4: 7}
_AT_ONCE = 1 << 18  # weights worked on together: what is made of them stays in the second-level cache
# Shares of the scale at which nothing is cut off. A smaller one cuts the largest weight of a group and serves the
# others better.
_SHARES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)
_ONE_SHARE = {
    8: 1.0,
    4: 0.96,
}  # without a search; on trained and on Gaussian weights 4 bits err least between 0.94 and 0.97


def check_format(bits: int, group: int, columns: int) -> None:
    """Raises ValueError unless `columns` can be cut into groups. group 0: one scale a row."""
    require(bits in (4, 8), "bits", bits, "choose 4 or 8")
    require(group >= 0, "group", group, "must be 32, 64, 128 or another divisor of the row, or 0 for one scale a row")
    require(
        group == 0 or columns % group == 0,
        "group",
        group,
        f"does not divide a row of {columns} columns; choose a divisor, or 0 for one scale a row",
    )
    require(
        bits == 8 or columns % 2 == 0,
        "bits",
        bits,
        f"rows of {columns} columns cannot be packed two to a byte; keep this layer in 8 bits",
    )


def fitting_format(columns: int, bits: int, group: int) -> tuple[int, int]:
    """The wish for a format as far as a matrix can have it: 8 bits where rows cannot be packed, one scale a row where
    the group divides none."""
    return 8 if columns % 2 else bits, group if group and columns % group == 0 else 0


def quantize(weight_OI: Tensor, bits: int, group: int = 0, search: bool = True) -> tuple[Tensor, Tensor]:
    """Codes and scales [O, G] of a matrix. In 4 bits, for each group the scale with the least squared error among a few
    candidates, refitted to its codes; without the search, one share of the largest weight: some 4 % more error in a
    small part of the time.

    Raises ValueError for a format that does not fit, or a weight that is not finite or too large for half-precision
    scales.
    """
    rows, columns = weight_OI.shape
    check_format(bits, group, columns)
    group = group or columns
    codes = torch.empty(
        rows, columns // (8 // bits), dtype=torch.int8 if bits == 8 else torch.uint8, device=weight_OI.device
    )
    scales = torch.empty(rows, columns // group, dtype=torch.float16, device=weight_OI.device)
    step = max(1, _AT_ONCE // columns)

    def work(first: int) -> None:
        part = weight_OI[first : first + step].float().unflatten(1, (-1, group))  # [o, G, group]
        code, scale = _search(part) if search and bits == 4 else _direct(part, bits)
        codes[first : first + step], scales[first : first + step] = (
            pack(code.flatten(1)) if bits == 4 else code.flatten(1),
            scale,
        )

    in_threads(work, range(0, rows, step))
    require(
        bool(torch.isfinite(scales).all()),
        "weight",
        "inf or NaN",
        "cannot be quantized; the checkpoint is damaged or overflowed",
    )
    return codes, scales


def _direct(part_OGN: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Codes [O, G, N] and half-precision scales [O, G], at one share of the scale at which nothing is cut off."""
    scale = (_full_scale(part_OGN, bits) * _ONE_SHARE[bits]).half()
    return nearest_codes(part_OGN, scale, bits), scale


def _full_scale(part_OGN: Tensor, bits: int) -> Tensor:
    low, high = part_OGN.amin(2), part_OGN.amax(2)  # seven times as fast as torch.aminmax
    # In 4 bits there is one more code below zero than above: the largest weight takes it, and gives the scale its sign.
    return torch.where(high > -low, high, low) / LOWEST[4] if bits == 4 else torch.maximum(high, -low) / HIGHEST[8]


def _search(part_OGN: Tensor) -> tuple[Tensor, Tensor]:
    """4-bit codes [O, G, N] and half-precision scales [O, G] of least squared error."""
    full = _full_scale(part_OGN, 4)
    best = torch.full_like(full, torch.inf)
    codes, scales = torch.zeros_like(part_OGN, dtype=torch.int8), full.half()
    for share in _SHARES:
        code = nearest_codes(part_OGN, (full * share).half(), 4)
        # The scale that serves these codes best, then the codes that serve it best.
        norm = code.float().square().sum(2)
        scale = torch.where(norm > 0, (part_OGN * code).sum(2) / norm.clamp_min(1), full).half()
        code = nearest_codes(part_OGN, scale, 4)
        error = (part_OGN - code.float() * scale.float()[..., None]).square().sum(2)
        better = error < best
        best = torch.where(better, error, best)
        codes, scales = torch.where(better[..., None], code, codes), torch.where(better, scale, scales)
    return codes, scales


def nearest_codes(part: Tensor, scale: Tensor, bits: int) -> Tensor:
    """int8 codes of weights [..., N] at scales [...]."""
    divisor = scale.float()
    quotient = part * torch.where(divisor == 0, 0.0, 1 / divisor)[..., None]
    return quotient.round_().clamp_(LOWEST[bits], HIGHEST[bits]).to(torch.int8)


def pack(codes_OI: Tensor) -> Tensor:
    """int8 codes -8..7 [O, I] -> uint8 [O, I / 2], the even column in the high half of the byte."""
    pairs = codes_OI.contiguous().view(torch.int16)  # of two codes, the even column in the low byte
    return (((pairs & 0xF) << 4) | ((pairs >> 8) & 0xF)).to(torch.uint8)


def unpack(packed: Tensor) -> Tensor:
    """The inverse of `pack`: uint8 [O, I / 2] -> int8 [O, I]."""
    pairs = torch.stack([packed >> 4, packed & 0xF], dim=-1).flatten(1).view(torch.int8)
    return (pairs ^ 8) - 8  # sign of a four-bit number


def dequantize(codes: Tensor, scales_OG: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The weights [O, I] that codes and scales stand for."""
    codes = unpack(codes) if codes.dtype == torch.uint8 else codes
    return (codes.unflatten(1, (scales_OG.shape[1], -1)).to(dtype) * scales_OG[..., None].to(dtype)).flatten(1)
