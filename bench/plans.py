"""The fused plan beside the published one: counts, predictions and simulations of decode, and of a prompt's attention.

``python -m bench.plans`` writes ``bench/results/plans.json`` and the tables of ``bench/results/plans.md``. No wafer ran
the fused plan.

*Predicted*: the published kernels, one head of full width, with the constants fitted to the published decode (on the
WSE-2 34 cycles a row of a GEMV, 22 a stage; on the WSE-3 those, and the cycles of the instrumented kernel outside its
phases).

*Simulated*: every schedule of a block of this library, with the model's own heads, one after the other, at the single
costs of the machine (a stage is 5 or 10 cycles); a core's own ``q k`` and ``p v`` are added by hand.

*Closed form over simulation*: the form of a GEMV on the same schedules. By hand, a vector of W words enters the root of
each of two levels twice, once from either arm, and is broadcast once: 5 W words on links. The constant that was fitted
to short vectors (3.0 to 3.4 cycles a word) falls short of that by up to 10 % of a block; both are shown.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import perfmodel as pm
from meshkernels import Mesh
from meshkernels.fabric import machine, simulate
from meshkernels.files.checkpoint import Config
from meshkernels.llm import Layout, Plan, decode_plan, prefill_plan
from meshkernels.llm.operations import Scheduled
from perfmodel import counts_llm, parameters

RESULTS = Path(__file__).parent / "results"
#: Cores a side on which the paper decodes (tables 4 and 5; it names none for CodeLLaMA).
GRIDS = {"llama3-8b": 420, "llama2-13b": 375, "codellama-34b": 420, "qwen2-72b": 420}
CHIPS, TOKENS = ("wse2", "wse3"), 4096


def layout(model: pm.Model, grid: int) -> Layout:
    """A model of the performance model on a mesh of the library."""
    config = Config(blocks=model.layers, dim=model.dim, ffn=model.ffn, heads=model.heads, kv_heads=model.kv_heads,
                    head_dim=model.head_dim, vocab=model.vocab, context=TOKENS)
    return Layout(config, Mesh(grid))


def simulated(plan: Plan, chip: str) -> dict[str, float]:
    """Cycles of each operation of a block that moves anything, its schedules one after the other."""
    return {op.name: sum(simulate(used.schedule, chip, limits=False).cycles * used.repeats for used in op.schedules
                         if isinstance(used, Scheduled)) for op in plan.layer if op.schedules}


def attention_by_hand(at: Layout, chip: str) -> float:
    """Cycles of a core's vector instructions for ``q k`` and ``p v`` of its heads: the same in both plans."""
    held, costs = -(-TOKENS // at.mesh.rows), machine(chip)
    return at.strip_heads * (costs.multiply(1, at.width, held, vector=True) + costs.multiply(1, held, at.width,
                                                                                            vector=True))


def decode_row(name: str, chip: str, grid: int, plan: str) -> dict[str, Any]:
    """Everything about one token on one grid."""
    model, device = pm.model(name), pm.device(chip)
    lines = counts_llm.block(model, "decode", TOKENS, grid, grid, plan)
    found = pm.decode(chip, model, context=TOKENS, grid=grid, plan=plan)
    low, high = (found.as_dict()["interval"][edge] for edge in ("low", "high"))
    at = layout(model, grid)
    by_operation = simulated(decode_plan(at, TOKENS, plan), chip)
    local = attention_by_hand(at, chip)
    fitted = parameters.on(device, "gemv").values
    if chip == "wse2":  # its machine has no launch, and the form's is borrowed from WSE-3
        fitted = fitted | {"launch": 0.0}
    fit, hand = ({op: sum(counts_llm.cycles(device, constants, part) for part in parts)
                  for op, parts in counts_llm.parts(model, "decode", TOKENS, grid, grid, plan)}
                 for constants in (fitted, fitted | {"stream": 5 * machine(chip).word}))
    cycles = sum(by_operation.values())
    return {
        "model": name, "chip": chip, "grid": grid, "plan": plan,
        "all_reduces": sum(line.all_reduces for line in lines), "hops": sum(line.hops for line in lines),
        "stages": sum(line.stages for line in lines), "words": sum(line.words for line in lines),
        "predicted": float(found.tokens_per_s), "low": device.clock_hz / high, "high": device.clock_hz / low,
        "simulated": device.clock_hz / (model.layers * (cycles + local)), "cycles": cycles, "local": local,
        "error": sum(hand.values()) / cycles - 1, "error_fitted": sum(fit.values()) / cycles - 1,
        "by_operation": by_operation, "form_by_operation": hand,
    }


def prompt_row(chip: str, grid: int, plan: str) -> dict[str, Any]:
    """Scores and their product with the values, of one layer of LLaMA3-8B and a prompt of 16 tokens a row of cores."""
    at, tokens = layout(pm.model("llama3-8b"), grid), 16 * grid
    found = prefill_plan(at, tokens, plan=plan)
    lines = {line.name: line.work for line in found.ledger()}
    names = [op.name for op in found.layer if op.name in ("score", "softmax", "mix", "softmax, mix")]
    kept = [op for op in found.layer if op.name in names]
    cycles = {op.name: sum(simulate(used.schedule, chip, limits=False).cycles * used.repeats for used in op.schedules
                           if isinstance(used, Scheduled)) for op in kept}
    return {"chip": chip, "grid": grid, "plan": plan, "tokens": tokens, "cycles": cycles,
            "hops": sum(lines[n].hops for n in names), "stages": sum(lines[n].stages for n in names),
            "steps": sum(lines[n].steps for n in names), "bytes": max(lines[n].buffers for n in names)}


def measure() -> dict[str, list[dict[str, Any]]]:
    """All rows: the paper's grid, and the grid that is predicted to be each plan's best."""
    rows = []
    for name, grid in GRIDS.items():
        for chip in CHIPS:
            for plan in counts_llm.PLANS:
                best = pm.best_grid(chip, name, phase="decode", tokens=TOKENS, plan=plan).value
                for kind, side in (("paper", grid), ("best", best)):
                    rows.append({"kind": kind, **decode_row(name, chip, side, plan)})
                    print(rows[-1]["model"], chip, side, plan, f"{rows[-1]['error']:+.1%}", flush=True)
    return {"decode": rows, "prefill": [prompt_row(chip, 96, plan) for chip in CHIPS for plan in counts_llm.PLANS]}


def tables(found: dict[str, list[dict[str, Any]]]) -> str:
    """The stored rows as Markdown."""
    text = ["# Two plans, side by side", "", (__doc__ or "").partition("\n\n")[2].strip(), "",
            "Decode with 4096 entries in the cache; counts are of one block; 90 % intervals. The first grid is the "
            "paper's (tables 4 and 5; it names none for CodeLLaMA), the second is predicted to be the plan's best.",
            "",
            "| model | chip | grid | plan | all-reduces | hops | stages | predicted token/s | gain | simulated token/s "
            "| gain | closed form over simulation, fitted | by hand |", "|---" * 13 + "|"]
    paper = {(r["model"], r["chip"], r["kind"]): r for r in found["decode"] if r["plan"] == "paper"}
    for r in found["decode"]:
        other = paper[r["model"], r["chip"], r["kind"]]
        gains = [f"{r[key] / other[key]:.2f}" for key in ("predicted", "simulated")]
        text.append(f"| {r['model']} | {r['chip']} | {r['grid']}{' (best)' * (r['kind'] == 'best')} | {r['plan']} | "
                    f"{r['all_reduces']} | {r['hops']:,} | {r['stages']:,} | {r['predicted']:,.0f} "
                    f"({r['low']:,.0f}-{r['high']:,.0f}) | {gains[0]} | {r['simulated']:,.0f} | {gains[1]} | "
                    f"{r['error_fitted']:+.1%} | {r['error']:+.1%} |")
    text += ["", "Scores, softmax and values of a prompt, 16 tokens a row of cores, one layer of LLaMA3-8B; every "
             "head's product is a schedule of its own, and the schedules are simulated one after the other.", "",
             "| chip | grid | plan | steps | hops | stages | bytes per core | simulated cycles |",
             "|---|---|---|---|---|---|---|---|"]
    for r in found["prefill"]:
        parts = " + ".join(f"{cycles:,.0f} ({name})" for name, cycles in r["cycles"].items())
        text.append(f"| {r['chip']} | {r['grid']} | {r['plan']} | {r['steps']:,} | {r['hops']:,} | {r['stages']:,} | "
                    f"{r['bytes']:,} | {parts} = {sum(r['cycles'].values()):,.0f} |")
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    measured = measure()
    (RESULTS / "plans.json").write_text(json.dumps(measured) + "\n", encoding="utf-8")
    (RESULTS / "plans.md").write_text(tables(measured), encoding="utf-8")
