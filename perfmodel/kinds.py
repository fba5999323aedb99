"""What can be fitted: for every kind of measurements its form, as a function of their columns, and its constants."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from perfmodel import counts_reduce, forms, forms_gemm, systems
from perfmodel.device import Device
from perfmodel.terms import Terms

Columns = Mapping[str, np.ndarray]
#: terms of a form: constants, columns of sizes, device of its kind
Form = Callable[[Mapping[str, float], Columns, Any], Terms]


def _gemm(c: Mapping[str, float], x: Columns, chip: Device) -> Terms:
    return forms_gemm.gemm(c, chip, "meshgemm", x["M"], x["K"], x["N"], x["P"], x["P"])


def _gemv(c: Mapping[str, float], x: Columns, chip: Device) -> Terms:
    return forms.gemv(c, chip, "ktree", x["M"], x["N"], x["P"], x["P"], x["groups"])


def _prefill(c: Mapping[str, float], x: Columns, chip: Device) -> Terms:
    return forms.prefill(c, chip, x["dim"], x["ffn"], x["tokens"], x["P"])


def _decode(c: Mapping[str, float], x: Columns, chip: Device) -> Terms:
    return forms.decode(c, chip, x["dim"], x["ffn"], x["tokens"], x["P"], counts_reduce.published_groups(x["P"]))


def _shift(c: Mapping[str, float], x: Columns, chip: Device) -> Terms:
    return forms.shift(c, chip, x["tile_rows"], x["tile_cols"], x["L"], x["P"])


def _matmul(c: Mapping[str, float], x: Columns, chip: Device) -> Terms:
    return forms.matmul(c, chip, x["M"], x["K"], x["N"], x["grid_y"], x["grid_x"], x["fidelity"],
                        x["storage_in0_out"] == "DRAM")


def _host(c: Mapping[str, float], x: Columns, chip: Device) -> Terms:
    return {"overhead": c["overhead"] + x["steps"] * c["per_step"], "compute": x["flops"] * c["per_flop"],
            "transfer": x["bytes"] * c["per_byte"] + x["products"] * c["per_product"]}


@dataclass(frozen=True)
class Kind:
    """A form and the constants to fit (name -> typical size).

    Attributes:
        form: terms from constants and sizes.
        free: constants that are fitted unless they are fixed.
        kernel: the kernel of `perfmodel.constants.KERNELS` that it calibrates, whose other constants are held.
        soft: the relative residual at which the loss turns from square to linear: about the error expected of the
            form. Rows that miss by far more pull no harder for it.
    """

    form: Form
    free: Mapping[str, float]
    kernel: str | None = None
    soft: float = 0.02


KINDS: dict[str, Kind] = {
    "gemm": Kind(_gemm, {"launch": 80, "startup": 80, "k_loop": 40, "remainder": 4, "vector": 1, "beat": 1}, "gemm"),
    # the sweep repeats to a few cycles; on 16 cores a side other effects show, which stay out
    "gemv": Kind(_gemv, {"launch": 100, "row": 3, "stream": 3, "alpha": 2, "beta": 10, "die": 10}, "gemv", 0.001),
    "prefill": Kind(_prefill, {"k_loop": 50, "beat": 2}, "gemm"),
    "decode": Kind(_decode, {"row": 30, "beta": 20}, "decode"),
    "shift": Kind(_shift, {"startup": 80}, "shift"),
    "matmul": Kind(_matmul, {"launch": 2000, "issue": 40, "multicast": 2, "exposed": 0.3}, "matmul"),
    "t10_prefill": Kind(systems.t10_prefill, {"element": 2, "relay": 100}),
    "t10_decode": Kind(systems.t10_decode, {"relay": 20}),
    "ladder_prefill": Kind(systems.ladder_prefill, {"element": 1, "barrier": 800}),
    "ladder_decode": Kind(systems.ladder_decode, {"element": 1, "barrier": 400}),
    # a roofline misses by a tenth
    "a100_prefill": Kind(systems.a100_prefill, {"compute_efficiency": 0.7, "fabric_efficiency": 0.1,
                                                   "phase": 1e-3}, soft=0.1),
    "a100_decode": Kind(systems.a100_decode, {"memory_efficiency": 0.8, "layer": 1e-4, "network": 1e-4}, soft=0.1),
    "a100_gemv": Kind(systems.a100_gemv, {"phase": 1e-4, "memory_efficiency": 0.8}, soft=0.1),
    "host": Kind(_host, {"overhead": 1e-5, "per_flop": 1e-11, "per_byte": 1e-10, "per_step": 1e-6,
                         "per_product": 1e-7}, soft=0.1),
}
