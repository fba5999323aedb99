"""Pictures of predictions show their numbers, and leave matplotlib as it was."""

import matplotlib as mpl
import numpy as np
import pytest

import perfmodel as pm

mpl.use("Agg")
import matplotlib.pyplot as plt

pytestmark = pytest.mark.usefixtures("figures_closed")


def test_terms_of_a_point_are_one_bar_as_long_as_the_time():
    prediction = pm.decode("wse2", "llama3-8b", context=4096, grid=360)
    ax = pm.draw.terms(prediction)
    assert sum(bar.get_width() for bar in ax.patches) == pytest.approx(float(prediction.cycles))
    assert {"hops", "routing stages", "local products"} <= set(ax.get_legend_handles_labels()[1])


def test_terms_of_many_points_stack_to_the_time():
    sides = np.arange(240, 721, 120)
    prediction, ax = pm.gemv("wse2", 16384, 16384, grid=sides), plt.subplots()[1]
    assert pm.draw.terms(prediction, ax, x=sides) is ax
    top = ax.collections[-1].get_paths()[0].vertices
    for side, cycles in zip(sides, prediction.cycles):
        assert top[top[:, 0] == side, 1].max() == pytest.approx(cycles)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), prediction.lower_bound)


def test_phases_elasticities_and_sweeps():
    decode = pm.decode("wse2", "llama3-8b", context=4096, grid=360)
    bars = [bar.get_height() for bar in pm.draw.phases(decode, layers=32).patches]
    assert 32 * sum(bars) == pytest.approx(sum(sum(phase.values()) for phase in decode.phases.values()))
    strongest = pm.draw.elasticities(decode).patches[-1]
    assert strongest.get_width() == pytest.approx(pm.sensitivity(decode)[0].elasticity)
    one = pm.sweep("wse2", lambda chip: pm.gemv(chip, 960, 960, grid=240), alpha=[1, 2, 4])
    np.testing.assert_array_equal(pm.draw.sweep(one).lines[0].get_ydata(), one.cycles)
    two = pm.sweep("wse2", lambda chip: pm.gemv(chip, 960, 960, grid=240), alpha=[1, 2], beta=[1, 2, 3])
    assert (pm.draw.sweep(two).get_xlabel(), pm.draw.sweep(two).get_ylabel()) == ("beta", "alpha")


def test_parity_adds_rows_to_one_diagonal():
    fit = pm.fit("wse2_decode")
    ax = pm.draw.parity(fit, label="fit")
    pm.draw.parity([1.0, 2.0], [1.1, 1.9], ax, label="mine")
    rows = [line for line in ax.lines if line.get_linestyle() == "None"]
    np.testing.assert_allclose(rows[0].get_ydata() / rows[0].get_xdata() - 1, fit.residuals, atol=1e-12)
    assert len(ax.collections) == 1 and ax.get_xlim() == ax.get_ylim() and ax.get_xlim()[0] < 1


def test_refusals():
    grids = pm.gemv("wse2", 960, 960, grid=np.array([[240, 480]]))
    for call, says in ((lambda: pm.draw.terms(grids), "no prediction of one point, or of points along one axis"),
                       (lambda: pm.draw.phases(pm.gemv("wse2", 96, 96, grid=24)), "has no phases"),
                       (lambda: pm.draw.sweep(pm.sweep("wse2", lambda c: pm.gemv(c, 9, 9, grid=3), alpha=[1], beta=[1],
                                                       clock_hz=[1e9])), "one or two parameters can be drawn"),
                       (lambda: pm.draw.parity([1.0], [1.0, 2.0]), r"measured \(1,\) and predicted \(2,\)")):
        with pytest.raises(pm.ModelError, match=says):
            call()
