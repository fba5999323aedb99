"""Pictures show what was walked and counted, and leave matplotlib as it was."""

import numpy as np
import pytest

import meshkernels as mk
from meshkernels.readers.lockstep import walk
from plots import steps as steps_figure
from plots import style

style.use()
import matplotlib.pyplot as plt  # noqa: E402

pytestmark = pytest.mark.usefixtures("figures_closed")


def _written(ax):
    return {(round(t.get_position()[1]), round(t.get_position()[0])): t.get_text() for t in ax.texts}


@pytest.mark.parametrize("algorithm", ["cannon", "meshgemm"])
def test_steps_show_the_blocks_that_meet(algorithm):
    P = 4
    schedule = mk.schedule(algorithm, mk.Mesh(P), 8, 8, 8)
    axes = mk.draw.steps(schedule)
    walked = [holds for _, step, holds in walk(schedule) if step.compute]
    assert axes.shape == (2, P) == (2, len(walked))
    for column, holds in zip(axes.T, walked):
        for ax, name in zip(column, "AB"):
            ids = holds[name][:, :, 0]
            assert _written(ax) == {(y, x): "{},{}".format(*divmod(ids[y, x], P)) for y in range(P) for x in range(P)}


def test_products_without_alignment_and_without_products():
    assert mk.draw.steps(mk.schedule("summa", mk.Mesh(3), 6, 6, 6), most=2).shape == (2, 2)
    turned = mk.schedule("transpose", mk.Mesh(2, 3), 4, 6)
    ax = mk.draw.steps(turned)[0, 0]
    first = next(walk(turned))[2]["A"][1, 2, 0]
    assert _written(ax)[1, 2] == "{},{}".format(*divmod(first, turned.operands["A"].grid[1]))
    assert len(steps_figure.draw(("cannon25d", "gemm_t"), 1).axes) == 4


def test_animation_has_a_frame_for_each_product(tmp_path):
    film = mk.draw.animation(mk.schedule("hsumma", mk.Mesh(4), 8, 8, 8))
    film.save(tmp_path / "film.gif", writer="pillow", dpi=40)
    from PIL import Image

    with Image.open(tmp_path / "film.gif") as image:
        assert image.n_frames == 4


def test_links_are_those_of_the_ledger():
    ledger = mk.count(mk.schedule("meshgemm", mk.Mesh(3, 2), 6, 6, 6))
    ax = mk.draw.links(ledger)
    east, west, south, north = ledger.link_words
    across, down = np.maximum(east[:, :-1], west[:, 1:]), np.maximum(south[:-1], north[1:])
    np.testing.assert_array_equal(ax.collections[0].get_array(), [*across.ravel(), *down.ravel()])
    assert mk.draw.links(ledger, ax) is ax
    for drawn in (ax, mk.draw.busy(mk.simulate(mk.schedule("meshgemm", mk.Mesh(3, 2), 6, 6, 6)))):  # cores are counted
        ticks = np.concatenate([drawn.get_xticks(), drawn.get_yticks()])
        np.testing.assert_array_equal(ticks, np.round(ticks))


def test_refusals():
    with pytest.raises(mk.MeshError, match="100 x 100 cores: at most 4096"):
        mk.draw.steps(mk.schedule("cannon", mk.Mesh(100), 100, 100, 100))
    with pytest.raises(mk.MeshError, match=r"axes \(1, 1\): cannon needs \(2, 3\)"):
        mk.draw.steps(mk.schedule("cannon", mk.Mesh(3), 3, 3, 3), plt.subplots(squeeze=False)[1])


def test_blocks():
    tiling = mk.Tiling((10, 6), (4, 2))
    ids = np.arange(8).reshape(4, 2)
    assert all(tiling.block(ids[i, j]) == (i, j) for i in range(4) for j in range(2))
