"""HU windows: the one place where HU stops being HU."""

import torch

# lower and upper end in HU
WINDOWS: dict[str, tuple[float, float]] = {
    "wide": (-1000.0, 1000.0),
    "lung": (-1350.0, 150.0),
    "soft_tissue": (-160.0, 240.0),
    "bone": (-450.0, 1050.0),
}


def window_bounds(window: str) -> tuple[float, float]:
    """Lower and upper end of a named window in HU.

    Raises:
        ValueError: for an unknown name.
    """
    if window not in WINDOWS:
        raise ValueError(f"window is {window!r}, expected one of {', '.join(WINDOWS)}")
    return WINDOWS[window]


def scale_window(hu: torch.Tensor, window: str = "wide") -> torch.Tensor:
    """Clip HU to a named window and scale it to [0, 1]."""
    low, high = window_bounds(window)
    return (hu.clamp(low, high) - low) / (high - low)


def unscale_window(scaled: torch.Tensor, window: str = "wide") -> torch.Tensor:
    """HU of values in [0, 1] of a named window; the inverse of `scale_window` inside the window."""
    low, high = window_bounds(window)
    return scaled * (high - low) + low
