"""What the figures share: where they are written, and how."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from ddm import runner

OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", "benchmarks/results", "Folder for the table (CSV) and the picture (PNG)."
)


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows of one shape as CSV, whole or not at all; floats keep nine digits."""
    shortened = [{name: _shortened(value) for name, value in row.items()} for row in rows]
    runner.write_csv(path, shortened)
    print(path)


def new_figure(width: float, height: float) -> Any:
    """A figure, in inches, that needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, path: Path) -> None:
    """Writes a picture, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.stem}.tmp{path.suffix}")
    # Without the version of the library in it, the same numbers give the same file.
    figure.savefig(temporary, dpi=130, metadata={"Software": None})
    os.replace(temporary, path)
    print(path)


def tidy(axis: Any) -> None:
    """A light grid, no frame above and to the right."""
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def _shortened(value: Any) -> Any:
    return float(f"{value:.9g}") if isinstance(value, float) else value
