"""Accelerators and their clusters: the data sheet's limits, and what matrix products reach of them.

Does not look at the machine it runs on: these are the machines one plans for. Rates are per device unless they say
node; a link's rate is one direction.
"""

from dataclasses import dataclass
from typing import Any

from openglm.config import require

GB, GIB, TERA = 1e9, 2**30, 1e12


@dataclass(frozen=True)
class Device:
    """One kind of accelerator in its usual node."""

    name: str
    peak: float
    """dense 16-bit FLOP/s"""
    memory: float
    """bytes"""
    bandwidth: float
    """bytes/s of its memory"""
    node: int
    """devices in a node"""
    link: float
    """bytes/s between the devices of a node"""
    network: float
    """bytes/s that leave a node, all its adapters together"""
    products: float
    """share of the peak that very large matrix products reach"""
    half: float
    """size of one side of a product at which half of that is left"""
    checked: str
    """published runs that these two constants were held against; empty: none, so take times as a guess"""
    source: str


# `products` and `half` are the only fitted figures: one pair for the A100 (both sizes are the same chip) and one for
# the H100 (benchmarks/planner.py).
# Devices without published runs of known layout take the A100's `half` and a guessed share; the verb says so.
_A100: dict[str, Any] = {
    "peak": 312 * TERA,
    "node": 8,
    "link": 300 * GB,
    "network": 200 * GB,
    "products": 0.75,
    "half": 150,
    "source": "NVIDIA A100 data sheet; DGX A100: 8 x HDR 200 Gb/s",
}
DEVICES = {
    device.name: device
    for device in (
        Device("a100-40g", memory=40 * GIB, bandwidth=1555 * GB, checked="GLM-130B, GPT-NeoX-20B, MPT", **_A100),
        Device(
            "a100-80g", memory=80 * GIB, bandwidth=2039 * GB, checked="Megatron-LM, BLOOM, OPT, MT-NLG, MPT", **_A100
        ),
        Device(
            "h100",
            989 * TERA,
            80 * GIB,
            3350 * GB,
            8,
            450 * GB,
            400 * GB,
            0.88,
            700,
            "Llama 3 405B, MPT",
            "NVIDIA H100 SXM data sheet; DGX H100: 8 x NDR 400 Gb/s",
        ),
        Device(
            "v100",
            125 * TERA,
            32 * GIB,
            900 * GB,
            8,
            150 * GB,
            50 * GB,
            0.7,
            150,
            "",
            "NVIDIA V100 SXM2 data sheet; DGX-1: 4 x EDR 100 Gb/s",
        ),
        Device(
            "3090",
            71 * TERA,
            24 * GIB,
            936 * GB,
            8,
            16 * GB,
            12.5 * GB,
            0.8,
            150,
            "",
            "NVIDIA GA102 white paper (fp16, fp32 accumulation); PCIe 4.0 at half rate, 100 Gb/s",
        ),
        Device(
            "ascend-910",
            256 * TERA,
            32 * GIB,
            1200 * GB,
            8,
            30 * GB,
            100 * GB,
            0.6,
            150,
            "",
            "Huawei, Hot Chips 31: HCCS 240 Gb/s, 100 Gb/s RoCE a device",
        ),
        Device(
            "dcu",
            24.5 * TERA,
            16 * GIB,
            1024 * GB,
            4,
            16 * GB,
            25 * GB,
            0.6,
            150,
            "",
            "Hygon DCU Z100: Vega 20 class, HBM2; 200 Gb/s a node",
        ),
        Device(
            "sw26010-pro",
            55.3 * TERA,
            96 * GIB,
            307 * GB,
            1,
            16 * GB,
            16 * GB,
            0.5,
            150,
            "",
            "BaGuaLu (PPoPP 2022) and SC23 papers: 6 core groups, 16 GB and 51.2 GB/s each",
        ),
    )
}


def device(name: str) -> Device:
    require(name.lower() in DEVICES, "device", name, f"unknown; known: {', '.join(DEVICES)}")
    return DEVICES[name.lower()]
