"""Every figure draws and names its axes; ``python -m plots`` writes files."""

from contextlib import nullcontext as nothing
from importlib import import_module
from itertools import combinations

import pytest

from meshkernels import files
from plots import critical_path, llm_half, style
from plots.__main__ import figures, main
from tests.fuzz.gguf_writer import tiny_file

style.use()
import matplotlib.pyplot as plt  # noqa: E402


def test_unknown_figure(capsys):
    assert main(["rings", "link_word"]) == 2
    err = capsys.readouterr().err
    assert "unknown figure 'link_word'; known: " in err and "did you mean 'link_words'" in err and err.count("\n") == 1


def test_figures_are_listed_with_their_captions(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(figures()) and "interleaved ring" in "".join(lines)
    assert not list(tmp_path.iterdir())


def test_folders_and_files_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").touch()
    (tmp_path / "rings.png").symlink_to("/dev/full")
    for out, says in ((tmp_path / "file", "cannot make the folder"), (tmp_path, "rings.png': No space left on device")):
        assert main(["--out", str(out), "rings"]) == 2
        err = capsys.readouterr().err
        assert says in err and err.count("\n") == 1


def test_every_figure_has_a_caption():
    assert all(len(caption) > 20 for caption in figures().values())


def test_core_figures_are_written(tmp_path, capsys):
    assert main(["--out", str(tmp_path), "rings", "link_words"]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link_words.png", "rings.png"]
    assert all(p.stat().st_size > 10_000 for p in tmp_path.iterdir())


def test_formats_style_and_options(tmp_path, capsys):
    (tmp_path / "mine.mplstyle").write_text("figure.facecolor: black\n")
    assert main(["--out", str(tmp_path), "--format", "svg,pdf", "--style", str(tmp_path / "mine.mplstyle"), "steps",
                 "--algorithm", "summa", "--grid", "2"]) == 0  # fmt: skip
    assert {p.suffix for p in tmp_path.glob("steps.*")} == {".svg", ".pdf"}
    style.use()
    for arguments, says in ((["rings", "--grid", "3"], "the figure rings takes no --grid"),
                            (["rings", "--format", "doc"], "no format doc; known: pdf, svg, png"),
                            (["steps", "--algorithm", "canon"], "did you mean 'cannon'"),
                            (["fabric_links", "--algorithm", "ktree"], "ktree takes the sizes K, N"),
                            (["rings", "--style", "none"], "cannot read the style 'none'")):  # fmt: skip
        with pytest.raises(SystemExit) if arguments[0] == "rings" and "style" not in arguments[1] else nothing():
            assert main(["--out", str(tmp_path), *arguments]) == 2
        err = capsys.readouterr().err
        assert says in err and err.count("\n") == 1


#: Where a figure's own size takes many seconds: a smaller one.
SMALL = {"critical_path": {"sides": (2, 3, 8, 33)}, "llm_half": {"grid": 2, "prompt": "abc"}}  # fmt: skip


def _on(ax, box):
    """Whether a label of a tick is drawn: its middle is beside an axis, not beyond the axis's ends."""
    frame, x, y = ax.get_window_extent(), (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
    return frame.x0 - 1 <= x <= frame.x1 + 1 or frame.y0 - 1 <= y <= frame.y1 + 1


@pytest.mark.parametrize("name", figures())
def test_every_figure_draws_and_names_its_axes(name, tmp_path, monkeypatch):
    (tmp_path / "tiny.gguf").write_bytes(tiny_file().encoded()[0])
    tiny = files.load(tmp_path / "tiny.gguf")
    monkeypatch.setattr(llm_half.files, "load", lambda: tiny)
    figure = import_module(f"plots.{name}").draw(**SMALL.get(name, {}))
    figure.canvas.draw()
    shown = [ax for ax in figure.axes if ax.axison]
    assert all(ax.has_data() or ax.patches for ax in figure.axes)
    assert not shown or any(ax.get_xlabel() for ax in shown) or any(ax.get_ylabel() for ax in shown)
    for ax in shown:
        for axis in (ax.xaxis, ax.yaxis):
            labels = [label for label in axis.get_majorticklabels() + axis.get_minorticklabels() if label.get_text()]
            boxes = [box for box in (label.get_window_extent() for label in labels) if _on(ax, box)]
            assert not any(a.padded(1).overlaps(b.padded(1)) for a, b in combinations(boxes, 2)), boxes
    plt.close(figure)


def test_critical_path_shows_what_was_counted():
    sides = (2, 3, 8, 33, 64)
    figure = critical_path.draw(sides)
    left, right = figure.axes
    by_label = {line.get_label(): list(line.get_ydata()) for ax in (left, right) for line in ax.lines}
    assert by_label["MeshGEMM"][1:] == [2] * (len(sides) - 1)
    assert by_label["Cannon"] == [P - 1 for P in sides]
    assert left.get_xlabel() and right.get_ylabel()
    plt.close(figure)
