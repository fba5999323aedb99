"""Plans of an LLM on the fabric: operations add up, and what cannot be played is refused."""

import pytest

import meshkernels as mk
from meshkernels.fabric import simulate_plan
from meshkernels.files import Config
from meshkernels.llm import Layout, decode_plan, prefill_plan
from meshkernels.llm.operations import Passing

LAYOUT = Layout(Config(blocks=3, dim=32, ffn=64, heads=4, kv_heads=2, head_dim=8, vocab=50, context=64), mk.Mesh(8))


@pytest.mark.parametrize("make, name", [(decode_plan, "paper"), (decode_plan, "fused"), (prefill_plan, "paper")])
def test_a_plan_takes_its_schedules_one_after_the_other(make, name):
    plan = make(LAYOUT, 16, plan=name)
    run = simulate_plan(plan, "wse3")
    total = 0.0
    for part, times in (("before", 1), ("layer", 3), ("after", 1)):
        for op in getattr(plan, part):
            (found,) = [one for one in run.operations if (one.part, one.name) == (part, op.name)]
            scheduled = [used for used in op.schedules if not isinstance(used, Passing)]
            cycles = sum(used.repeats * mk.simulate(used.schedule, "wse3").cycles for used in scheduled)
            if len(scheduled) == len(op.schedules):
                assert found.cycles == cycles and (found.cycles > 0) == bool(scheduled)
            else:  # the cache's entries, from neighbour to neighbour
                assert found.cycles > cycles
            total += times * found.cycles
    assert run.cycles == pytest.approx(total) and run.seconds == run.cycles / mk.fabric.machine("wse3").device.clock_hz


def test_the_fused_plan_of_decode_saves_all_reduces():
    layers = [simulate_plan(decode_plan(LAYOUT, 16, plan), "wse2").layer_cycles for plan in ("fused", "paper")]
    assert layers[0] < layers[1]


def test_words_that_ride_on_messages_of_another_schedule_are_refused():
    with pytest.raises(mk.FabricError, match=r"operation 'score' of prefill by plan 'fused' .* simulate plan 'paper'"):
        simulate_plan(prefill_plan(LAYOUT, 16, plan="fused"), "wse3")
