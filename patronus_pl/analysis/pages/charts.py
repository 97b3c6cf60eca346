"""Charts as PNG files: matrices, curves, panels, and what the census and recovery found."""

from collections.abc import Sequence

import matplotlib
import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from patronus_pl.analysis.explain.census import Census
from patronus_pl.analysis.explain.recovery import Recovery
from patronus_pl.analysis.pages.figures import ACCENT, DPI, INK, QUIET, SECOND, STYLE, png_of

Curve = Float[Tensor, " n"]


def matrix(
    values: Float[Tensor, "rows columns"],
    title: str = "",
    row_name: str = "",
    column_name: str = "",
    extent: tuple[float, float, float, float] | None = None,
    high: float | None = None,
) -> bytes:
    """Draw a matrix in colours: white at 0, deeper for larger values, blue below 0, grey where it is NaN.

    Args:
        values: the matrix.
        title: above all.
        row_name: what the rows are.
        column_name: what the columns are.
        extent: (left, right, bottom, top) of the axes; None counts rows and columns.
        high: value of the deepest colour; None takes the largest one.
    """
    numbers = values.detach().float().cpu()
    known = numbers[numbers.isfinite()].abs()
    high = float(known.max()) if high is None and len(known) else high or 1.0
    with matplotlib.rc_context(STYLE):
        colours = LinearSegmentedColormap.from_list("", [SECOND, "white", ACCENT]).with_extremes(bad="#dddddd")
        figure, axes = _axes((4.6, 4.0), title)
        picture = axes.imshow(numbers.numpy(), colours, vmin=-high, vmax=high, extent=extent, aspect="auto")
        bar = figure.colorbar(picture, fraction=0.05)
        bar.ax.set_ylim(0.0 if not len(known) or float(numbers.nan_to_num(0).min()) >= 0 else -high, high)
        axes.set(xlabel=column_name, ylabel=row_name)
        return png_of(figure)


def recovery_map(found: Recovery, prototypes: Sequence[int]) -> bytes:
    """Draw how much of each prototype a noisy image alone tells, from all noise to none; a dot marks half of it.

    Args:
        found: what `recovery` measured.
        prototypes: the rows, from the top.
    """
    rows = list(prototypes)
    known = np.stack([found.known[j].numpy() for j in rows])
    x = found.log_snr.numpy()
    edges = np.concatenate([x[:1], (x[1:] + x[:-1]) / 2, x[-1:]])
    half, low, high = (values[rows, 1].numpy() for values in (found.passed, found.low, found.high))
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes((4.6, 1.2 + 0.2 * len(rows)), "When a noisy image tells a prototype")
        colours = LinearSegmentedColormap.from_list("", ["white", ACCENT])
        mesh = axes.pcolormesh(edges, np.arange(len(rows) + 1) - 0.5, known, cmap=colours, vmin=0, vmax=1)
        figure.colorbar(mesh, fraction=0.05)
        axes.hlines(range(len(rows)), low, high, color=INK, lw=1)
        axes.plot(half, range(len(rows)), "o", color=INK, ms=3)
        axes.set_yticks(range(len(rows)), [str(j) for j in rows])
        axes.set(xlabel="log-SNR (all noise at the left)", ylabel="prototype", ylim=(len(rows) - 0.5, -0.5))
        return png_of(figure)


def census_picture(found: Census) -> bytes:
    """Draw how much each prototype varies and which vary together; name the dead, duplicate and global ones."""
    dead, everywhere = (torch.nonzero(flags)[:, 0].tolist() for flags in (found.dead, found.is_global))
    kinds = {"dead": dead, "duplicates": [f"{j}={k}" for j, k in found.duplicates], "global": everywhere}
    named = "   ".join(f"{kind}: {', '.join(map(str, names)) or 'none'}" for kind, names in kinds.items())
    with matplotlib.rc_context(STYLE):
        figure = Figure((7.6, 3.4), dpi=DPI, layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
        colours = [QUIET if j in dead else SECOND if j in everywhere else ACCENT for j in range(len(found.std))]
        left.bar(range(len(found.std)), found.std.numpy(), color=colours)
        left.set(xlabel="prototype", ylabel="standard deviation of its activation")
        both_ways = LinearSegmentedColormap.from_list("", [SECOND, "white", ACCENT])
        picture = right.imshow(found.correlation.numpy(), both_ways, vmin=-1, vmax=1)
        figure.colorbar(picture, fraction=0.05)
        right.set(xlabel="prototype", ylabel="correlation with")
        for axis in (left.xaxis, right.xaxis, right.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True))
        figure.suptitle(_shortened(named), x=0.01, ha="left", fontsize=9, weight="bold")
        return png_of(figure)


def _shortened(text: str, longest: int = 100) -> str:
    return text if len(text) <= longest else f"{text[:longest]} …"


def curves(
    x: Curve,
    y: Sequence[Curve],
    labels: Sequence[str],
    bands: Sequence[tuple[Curve, Curve]] | None = None,
    title: str = "",
    x_name: str = "",
    y_name: str = "",
) -> bytes:
    """Draw curves over a common axis, each with its band.

    Args:
        x: common to all.
        y: the curves.
        labels: their names.
        bands: low and high end of each, or None.
        title: above all.
        x_name: of the axis.
        y_name: of the axis.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes((4.6, 2.8), title)
        for k, (curve, label) in enumerate(zip(y, labels, strict=True)):
            (line,) = axes.plot(x.cpu().numpy(), curve.cpu().numpy(), label=label, lw=1.4)
            if bands is not None:
                low, high = (end.cpu().numpy() for end in bands[k])
                axes.fill_between(x.cpu().numpy(), low, high, color=line.get_color(), alpha=0.2, lw=0)
        axes.legend(frameon=False, fontsize=7)
        axes.set(xlabel=x_name, ylabel=y_name)
        return png_of(figure)


def panels(
    values: Float[Tensor, "numbers rows repeats"], names: Sequence[str], row_names: Sequence[str], title: str = ""
) -> bytes:
    """Draw several numbers of several things: a panel for each number, in it a row for each thing, a point a repeat.

    Args:
        values: the numbers; where one is NaN there is no point.
        names: of the numbers.
        row_names: of the things, the first one above. A dotted line stands at its mean, for comparison.
        title: above all.
    """
    columns = min(5, len(names))
    rows = -(-len(names) // columns)
    with matplotlib.rc_context(STYLE):
        size = 1.4 + 1.7 * columns, 0.4 + rows * (0.6 + 0.2 * len(row_names))
        figure = Figure(size, dpi=DPI, layout="constrained")
        figure.suptitle(title, x=0.01, ha="left", fontsize=9, weight="bold", parse_math=False)
        grid = figure.subplots(rows, columns, sharey=True, squeeze=False).flatten()
        for axes, name, numbers in zip(grid, names, values.cpu(), strict=False):
            axes.axvline(float(numbers[0].nanmean()), color=QUIET, lw=0.8, ls=":")
            for r, row in enumerate(numbers):
                axes.plot(row.numpy(), [r] * len(row), "o", color=ACCENT, ms=4, mew=0)
            axes.set_title(name, fontsize=8, parse_math=False)
            axes.xaxis.set_major_locator(MaxNLocator(3))
            axes.ticklabel_format(axis="x", useOffset=False)
            axes.grid(axis="y", color=QUIET, lw=0.3, alpha=0.5)
            axes.tick_params(labelsize=7)
        grid[0].set_yticks(range(len(row_names)), row_names, parse_math=False)
        grid[0].set_ylim(len(row_names) - 0.5, -0.5)
        for axes in grid[len(names) :]:
            axes.set_visible(False)
        return png_of(figure)


def _axes(inches: tuple[float, float], title: str) -> tuple[Figure, Axes]:
    figure = Figure(inches, dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, loc="left", fontsize=9, weight="bold", parse_math=False)
    return figure, axes
