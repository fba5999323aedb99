"""``python -m bench.fabric_llm``: LLM plans on the fabric, into ``bench/results/fabric_llm.*`` (minutes)."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import meshkernels as mk
import perfmodel as pm
from meshkernels.fabric import simulate_plan
from meshkernels.files import Config
from meshkernels.llm import Layout, decode_plan, prefill_plan

RESULT = Path(__file__).parent / "results" / "fabric_llm.json"
TOKENS, DEVICE = 4096, "wse2"
#: Model, phase, grid, and the published tokens per second (tables 3 and 4 of WaferLLM) where there are some.
ROWS = (("smollm2-135m", "decode", 420, None), ("llama3-8b", "decode", 420, 2699.9),
        ("llama3-8b", "decode", 540, 2501.5), ("llama3-8b", "decode", 660, 2243.3),
        ("smollm2-135m", "prefill", 480, None),
        ("llama3-8b", "prefill", 480, 20320.6), ("llama3-8b", "prefill", 600, 25037.2))  # fmt: skip


def row(name: str, phase: str, grid: int, published: float | None) -> dict:
    """One plan: tokens per second by the fabric and by perfmodel, and cycles of the operations of a layer."""
    model = pm.model(name)
    config = Config(blocks=model.layers, dim=model.dim, ffn=model.ffn, heads=model.heads, kv_heads=model.kv_heads,
                    head_dim=model.head_dim, vocab=model.vocab, context=2 * TOKENS)  # fmt: skip
    begin = time.process_time()
    layout, tokens = Layout(config, mk.Mesh(grid)), 1 if phase == "decode" else TOKENS
    run = simulate_plan((decode_plan if phase == "decode" else prefill_plan)(layout, TOKENS), DEVICE)
    predicted = (pm.decode(DEVICE, name, context=TOKENS, grid=grid) if phase == "decode" else
                 pm.prefill(DEVICE, name, tokens=TOKENS, grid=grid))  # fmt: skip
    return {"model": name, "phase": phase, "grid": grid, "published": published,
            "layers": run.layers, "layer_cycles": run.layer_cycles, "fabric": tokens / run.seconds,
            "perfmodel": float(predicted.tokens_per_s), "cpu_s": round(time.process_time() - begin, 1),
            "operations": {op.name: op.cycles for op in run.operations if op.part == "layer" and op.cycles}}


def main() -> int:
    """Play, and write after each row."""
    found = []
    for given in ROWS:
        found.append(row(*given))
        text = json.dumps({"device": DEVICE, "tokens": TOKENS, "rows": found}, indent=1)
        RESULT.write_text(text + "\n", encoding="utf-8")
        lines = ["# LLM plans on the fabric", "",
                 f"{TOKENS:,} tokens on the WSE-2; tokens per second, nothing fitted to "
                 "an LLM by the fabric.", "",
                 "| model | phase | grid | fabric | perfmodel | published | fabric off published | CPU seconds |",
                 "|---|---|---|---|---|---|---|---|"]  # fmt: skip
        for r in found:
            given_rate = r["published"]
            lines.append(f"| {r['model']} | {r['phase']} | {r['grid']}^2 | {r['fabric']:,.0f} | "
                         f"{r['perfmodel']:,.0f} | "
                         + (f"{given_rate:,.0f} | {r['fabric'] / given_rate - 1:+.0%}" if given_rate else "- | -")
                         + f" | {r['cpu_s']:.0f} |")  # fmt: skip
        lines += ["", *NOTES]
        RESULT.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(lines[-len(NOTES) - 2], flush=True)
    return 0


NOTES = (
    "* Decode: the published kernels issue a vector instruction with 34 cycles of set-up for each row of a tile",
    "  (`perfmodel`: `wse2.decode`, `row`); the fabric has the 3 of the GEMV kernel. Local work without a schedule",
    "  (rotations, activations, residuals) takes no time here.",
    "* Prefill: the plan computes one product per head on a strip of the mesh, with all heads of a strip one after the",
    "  other; the published kernels compute one head of full width, which is what `perfmodel` predicts.",
)


if __name__ == "__main__":
    sys.exit(main())
