"""Pictures of CT volumes and of training runs, as matplotlib figures that also work printed in grey.

Volumes are (D, H, W) in HU with D upwards, H to the patient's back and W to the patient's left, so that axial slices
are shown as radiologists see them; `display_order` brings a volume of any file there. No figure touches pyplot's state.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import ArrayLike

from common.visualize.figures import GREY

ERROR_COLOURS = "cividis"
"""Of error and uncertainty maps: rises evenly in lightness, for colour-blind readers and in grey print."""


def display_order(volume: ArrayLike, affine: ArrayLike) -> tuple[np.ndarray, tuple[float, float, float]]:
    """Turn a volume into the order that the pictures expect.

    Args:
        volume: (D, H, W), axes in any order and direction.
        affine: (4, 4), indices of `volume` to RAS millimetres.

    Returns:
        The volume (a view) with D upwards, H to the back, W to the left; its spacing in millimetres in that order.
    """
    orientation = nib.orientations.io_orientation(affine)
    turn = nib.orientations.ornt_transform(orientation, nib.orientations.axcodes2ornt("SPL"))
    spacing = np.empty(3)
    spacing[turn[:, 0].astype(int)] = np.linalg.norm(np.asarray(affine)[:3, :3], axis=0)
    return nib.orientations.apply_orientation(np.asarray(volume), turn), tuple(spacing.tolist())


def interpolation_figure(
    volumes: Mapping[str, ArrayLike],
    target: ArrayLike | None,
    affine: ArrayLike,
    window: tuple[float, float] = (-1000.0, 1000.0),
    title: str = "",
) -> Figure:
    """Compare results of slice interpolation in the middle planes: an axial row, a coronal row, its absolute error.

    The scale of the errors ends at the 99th percentile of the largest column, rounded up to 10 HU.

    Args:
        volumes: name -> (D, H, W) in HU, a column each, in order.
        target: the true thin slices, same shape, as the last column; None leaves out the errors.
        affine: (4, 4), indices of the volumes to RAS millimetres.
        window: HU shown as black and as white; also the range of the PSNR under each column.
        title: above everything.

    Returns:
        The figure.

    Raises:
        ValueError: if a volume is not 3-D or differs from the others in shape.
    """
    everything = {name: _volume(name, volume) for name, volume in volumes.items()}
    if target is not None:
        everything["target"] = _volume("target", target)
    shapes = {name: volume.shape for name, volume in everything.items()}
    if len(set(shapes.values())) != 1:
        raise ValueError(f"The volumes have the shapes {shapes}, expected one shape.")
    turned = {name: display_order(volume, affine) for name, volume in everything.items()}
    everything = {name: volume for name, (volume, _) in turned.items()}
    mm_d, mm_h, mm_w = next(iter(turned.values()))[1]
    depth, height, width = next(iter(everything.values())).shape
    axial, coronal = depth // 2, height // 2
    planes = [(height * mm_h, f"axial, slice {axial + 1} of {depth}"), (depth * mm_d, "coronal")]
    planes += [(depth * mm_d, "absolute error")] if target is not None else []
    column_in = min(3.2, max(1.7, 12.0 / len(everything)))
    row_in = [column_in * extent / (width * mm_w) for extent, _ in planes]
    figure, axes = _grid(column_in, len(everything), row_in, title)

    truth = everything["target"] if target is not None else None
    errors = {n: np.abs(everything[n][:, coronal] - truth[:, coronal]) for n in volumes} if truth is not None else {}
    if errors:
        max_error = max(10.0, 10 * math.ceil(max(float(np.percentile(e, 99)) for e in errors.values()) / 10))
    for column, (name, volume) in enumerate(everything.items()):
        axes[0][column].set_title(name.replace("_", " "), fontsize=11, fontweight="bold", pad=5)
        _show(axes[0][column], volume[axial], mm_h / mm_w, window)
        _show(axes[1][column], volume[:, coronal], mm_d / mm_w, window, upwards=True)
        last = axes[1][column]
        if name in errors:
            last = axes[2][column]
            drawn = _show(last, errors[name], mm_d / mm_w, (0.0, max_error), ERROR_COLOURS, upwards=True)
        elif truth is not None:
            last = axes[2][column]
            last.axis("off")
            bar = figure.colorbar(drawn, cax=last.inset_axes((0.06, 0.52, 0.88, 0.08)), orientation="horizontal")
            bar.set_label("absolute error in HU", fontsize=9)
            bar.ax.tick_params(labelsize=9)
        if name in errors:
            last.set_xlabel(f"PSNR {_psnr(volume, truth, window):.2f} dB", fontsize=10, labelpad=4)
    for row, (_, label) in enumerate(planes):
        axes[row][0].set_ylabel(label, fontsize=9.5, labelpad=4)
    _scale_bar(axes[0][0], mm_w, width, height)
    _scale_bar(axes[1][0], mm_w, width, depth, upwards=True)
    figure.text(0.995, 0.008, _window_text(window), fontsize=8, ha="right", color=GREY)
    return figure


def uncertainty_figure(
    volume: ArrayLike,
    std: ArrayLike,
    affine: ArrayLike,
    title: str = "",
) -> Figure:
    """Mean of several samples beside their standard deviation per voxel, in the middle axial and coronal planes.

    Args:
        volume: (D, H, W), HU.
        std: same shape, HU.
        affine: (4, 4), indices of the volumes to RAS millimetres.
        title: above everything.

    Raises:
        ValueError: if the two differ in shape or are not 3-D.
    """
    volume, std = _volume("volume", volume), _volume("std", std)
    if volume.shape != std.shape:
        raise ValueError(f"The standard deviation has the shape {std.shape}, expected {volume.shape}.")
    (volume, (mm_d, mm_h, mm_w)), (std, _) = display_order(volume, affine), display_order(std, affine)
    depth, height, width = volume.shape
    window, limit = (-1000.0, 1000.0), float(np.percentile(std, 99.5)) or 1.0
    column_in = 3.6
    row_in = [column_in * height * mm_h / (width * mm_w), column_in * depth * mm_d / (width * mm_w)]
    figure, axes = _grid(column_in, 2, row_in, title, right_in=0.9)
    axes[0][0].set_title("mean of the samples", fontsize=11, fontweight="bold")
    axes[0][1].set_title("standard deviation", fontsize=11, fontweight="bold")
    for column, (data, scale, colours) in enumerate(
        [(volume, window, "gray"), (std, (0.0, limit), ERROR_COLOURS)],
    ):
        _show(axes[0][column], data[depth // 2], mm_h / mm_w, scale, colours)
        drawn = _show(axes[1][column], data[:, height // 2], mm_d / mm_w, scale, colours, upwards=True)
    bar = figure.colorbar(drawn, cax=axes[0][1].inset_axes((1.05, 0.0, 0.05, 1.0)))
    bar.set_label("standard deviation in HU", fontsize=9)
    bar.ax.tick_params(labelsize=9)
    axes[0][0].set_ylabel("axial", fontsize=9.5)
    axes[1][0].set_ylabel("coronal", fontsize=9.5)
    _scale_bar(axes[0][0], mm_w, width, height)
    figure.text(0.995, 0.008, _window_text(window), fontsize=8, ha="right", color=GREY)
    return figure


def _volume(name: str, volume: ArrayLike) -> np.ndarray:
    array = np.asarray(volume, dtype=np.float32)
    if array.ndim != 3:
        raise ValueError(f"Volume {name!r} has the shape {array.shape}, expected (D, H, W).")
    return array


def _psnr(volume: np.ndarray, target: np.ndarray, window: tuple[float, float]) -> float:
    """PSNR in dB over the volume, with the window scaled to [0, 1]."""
    low, high = window
    error = np.clip(volume, low, high) - np.clip(target, low, high)
    mse = float(np.mean(np.square(error, dtype=np.float64))) / (high - low) ** 2
    return math.inf if mse == 0 else -10 * math.log10(mse)


def _grid(
    column_in: float, columns: int, row_in: Sequence[float], title: str, right_in: float = 0.12
) -> tuple[Figure, list[list[Axes]]]:
    """Axes in rows of the given heights, laid out in inches so that pictures of any aspect stand close together."""
    left, gap, top, bottom = 0.34, 0.07, 0.34 + (0.36 if title else 0.0), 0.5
    width = left + columns * column_in + (columns - 1) * gap + right_in
    height = top + sum(row_in) + (len(row_in) - 1) * gap + bottom
    figure = Figure(figsize=(width, height))
    axes, y = [], height - top
    for row_height in row_in:
        y -= row_height
        x_of = [left + i * (column_in + gap) for i in range(columns)]
        axes.append([figure.add_axes((x / width, y / height, column_in / width, row_height / height)) for x in x_of])
        y -= gap
    if title:
        figure.text(left / width, 1 - 0.12 / height, title, fontsize=12.5, fontweight="bold", va="top")
    return figure, axes


def _show(
    axes: Axes,
    plane: np.ndarray,
    aspect: float,
    limits: tuple[float, float],
    colours: str = "gray",
    upwards: bool = False,
) -> AxesImage:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    origin = "lower" if upwards else "upper"
    return axes.imshow(
        plane, cmap=colours, vmin=limits[0], vmax=limits[1], aspect=aspect, origin=origin, interpolation="nearest"
    )


def _scale_bar(axes: Axes, mm_per_pixel: float, width: int, height: int, upwards: bool = False) -> None:
    """A white bar of a round length, about a fifth of the width, dark-edged to be seen on bone too."""
    fitting = [mm for mm in (1, 2, 5, 10, 20, 50, 100) if mm <= 0.3 * width * mm_per_pixel]
    length = fitting[-1] if fitting else 1
    y = 0.06 * height if upwards else 0.94 * height
    x = 0.04 * width
    for colour, thickness in (("black", 4.5), ("white", 2.5)):
        axes.plot([x, x + length / mm_per_pixel], [y, y], color=colour, linewidth=thickness, solid_capstyle="butt")
    box = {"facecolor": "black", "alpha": 0.55, "edgecolor": "none", "pad": 1.2}
    at = (x + length / mm_per_pixel + 0.02 * width, y)
    axes.text(*at, f"{length} mm", color="white", fontsize=8, va="center", bbox=box)


def _window_text(window: tuple[float, float]) -> str:
    return f"window {window[0]:g} to {window[1]:g} HU"
