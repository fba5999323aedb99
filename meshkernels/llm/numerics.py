"""What 16 bits cost: the residual stream and its logits after every block, against the same model in float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from meshkernels.llm.model import Llama
from meshkernels.llm.weights import Source
from meshkernels.mesh import Mesh

#: Sums in float32; in float16 except for the norms' squares; all in float16, as the published kernels do.
SUMS = (("float32", "float32"), ("float16", "float32"), ("float16", "float16"))


@dataclass(frozen=True, eq=False)
class HalfError:
    """Errors of one 16-bit run against float32, at the prompt's last token.

    Attributes:
        accumulate, norms: dtype of sums, and of the norms' sums of squares.
        stream: ``(blocks,)`` relative error (2-norm) of the residual stream after each block.
        logits: ``(blocks,)`` largest absolute error of the logits that the stream after each block would give
            through the final norm and the head (both in float64).
    """

    accumulate: str
    norms: str
    stream: np.ndarray
    logits: np.ndarray


def streams(model: Llama, tokens: Sequence[int], by_token: bool = False) -> np.ndarray:
    """Residual stream of the last token after every block, ``(blocks, dim)`` float64.

    Args:
        model: the model; its text is replaced.
        tokens: the prompt.
        by_token: run the prompt through decode (MeshGEMV) instead of prefill (MeshGEMM).

    Returns:
        The stream ``(blocks, dim)``.
    """
    found = np.zeros((model.config.blocks, model.config.dim))

    def keep(block, op, values):
        if block >= 0:  # the last operation of a block leaves what stays
            found[block] = values["X"][-1]

    model.hooks.append(keep)
    try:
        if by_token:
            model.reset()
            for token in tokens:
                model.decode(token)
        else:
            model.prefill(tokens)
    finally:
        model.hooks.remove(keep)
    return found


def half_errors(source: Source, mesh: Mesh | int, tokens: Sequence[int],
                sums: Sequence[tuple[str, str]] = SUMS, by_token: bool = False) -> list[HalfError]:
    """Run a prompt in float32 and with float16 storage under each kind of sum, and compare block by block.

    Args:
        source: the weights.
        mesh: the cores, or the side of a square mesh.
        tokens: the prompt.
        sums: for each run the dtype of sums and that of the norms' sums of squares.
        by_token: as of `streams`.

    Returns:
        The errors of each run.
    """
    exact = streams(Llama(source, mesh), tokens, by_token)
    expected = _logits(source, exact)
    errors = []
    for accumulate, norms in sums:
        model = Llama(source, mesh, dtype="float16", accumulate=accumulate, norms=norms)
        found = streams(model, tokens, by_token)
        relative = np.linalg.norm(found - exact, axis=1) / np.linalg.norm(exact, axis=1)
        errors.append(HalfError(accumulate, norms, relative, np.abs(_logits(source, found) - expected).max(axis=1)))
    return errors


def _logits(source: Source, stream: np.ndarray) -> np.ndarray:
    """``(blocks, vocab)`` logits of streams ``(blocks, dim)``, in float64."""
    scale = np.sqrt((stream**2).mean(axis=1, keepdims=True) + source.config.norm_eps)
    head = "output.weight" if "output.weight" in source.names else "token_embd.weight"
    return (stream / scale * source.tensor("output_norm.weight")) @ source.tensor(head).T.astype(np.float64)
