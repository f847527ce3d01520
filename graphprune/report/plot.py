"""The curves of a sweep as a picture: SVG and HTML by itself, PNG by matplotlib."""

from __future__ import annotations

import colorsys
import importlib.util
import math
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from graphprune.errors import InputError
from graphprune.sweep.curves import GroupCurve, Sensitivity

ENDINGS = (".svg", ".html", ".png")
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 960, 560, 80, 330, 50, 50
_NAMED = 24  # groups named beside the curves
_DECADES = 6  # below the largest error that are shown
_AXES = "share of the group's units that leave", "squared error of the outputs by their variance"


def check_plot(path: Path) -> None:
    """Make sure that a picture can be written.

    Raises:
        InputError: Its kind is unknown, its folder does not exist, or matplotlib is missing.
    """
    if path.suffix.lower() not in ENDINGS:
        raise InputError(f"--plot {path}: the file ends in {', '.join(ENDINGS)}")
    if not path.absolute().parent.is_dir():
        raise InputError(f"--plot {path}: there is no such folder")
    if path.suffix.lower() == ".png" and importlib.util.find_spec("matplotlib") is None:
        raise InputError(f'--plot {path}: needs matplotlib: pip install "graphprune[plot]", or take .svg or .html')


def write_plot(found: Sensitivity, path: Path) -> None:
    """Draw the curves, one for each group, the error on a logarithmic scale.

    Raises:
        InputError: The file cannot be written.
    """
    try:
        if path.suffix.lower() == ".png":
            _png(found, path)
            return
        text = _svg(found)
        if path.suffix.lower() == ".html":
            title = escape(found.model)
            text = f'<!doctype html><html><head><meta charset="utf-8"><title>{title}</title></head><body>{text}</body>'
            text += "</html>"
        path.write_text(text + "\n", encoding="utf-8", newline="\n")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None


def _curves(found: Sensitivity) -> list[tuple[GroupCurve, list[tuple[float, float]], str]]:
    """Groups with points and colours, the most sensitive first; colours run through the graph."""
    top = max((g.worst for g in found.groups if math.isfinite(g.worst)), default=1.0) or 1.0
    floor = top / 10**_DECADES
    out = []
    for place, group in enumerate(found.groups):
        points = [(p.ratio, max(p.error, floor)) for p in group.points if p.error is not None]
        red, green, blue = colorsys.hls_to_rgb(0.75 * place / max(len(found.groups) - 1, 1), 0.42, 0.75)
        if points:
            out.append((group, points, f"#{int(255 * red):02x}{int(255 * green):02x}{int(255 * blue):02x}"))
    return sorted(out, key=lambda c: -c[1][-1][1])


def _svg(found: Sensitivity) -> str:
    curves = _curves(found)
    errors = [e for _, points, _ in curves for _, e in points] or [1.0]
    low, high = math.floor(math.log10(min(errors))), math.ceil(math.log10(max(errors)))
    high = max(high, low + 1)

    def at(ratio: float, error: float) -> str:
        across = _LEFT + ratio * (_WIDTH - _LEFT - _RIGHT)
        up = (math.log10(error) - low) / (high - low)
        return f"{across:.1f},{_HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM):.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}"'
        ' font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>',
        f'<text x="{_LEFT}" y="24" font-size="15">{escape(found.model)}</text>',
        *_frame(low, high),
    ]
    for group, points, colour in curves:
        line = " ".join(at(*p) for p in points)
        said = ", ".join(f"{r:.0%}: {e:.3g}" for r, e in points)
        dots = "".join(_dot(at(*p)) for p in points)
        parts.append(f'<g stroke="{colour}" fill="{colour}"><title>{escape(group.name)}: {said}</title>{dots}')
        parts.append(f'<polyline points="{line}" fill="none" stroke-width="1.5"/></g>')
    return "\n".join([*parts, *_names(curves), "</svg>"])


def _dot(place: str) -> str:
    across, _, down = place.partition(",")
    return f'<circle cx="{across}" cy="{down}" r="2.5"/>'


def _frame(low: int, high: int) -> Iterator[str]:
    """Axes with their texts."""
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    for step in range(5):
        x = _LEFT + step / 4 * (right - _LEFT)
        yield f'<path d="M{x:.1f} {_TOP}V{bottom}" stroke="#ddd"/>'
        yield f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{25 * step}%</text>'
    for decade in range(low, high + 1):
        y = bottom - (decade - low) / (high - low) * (bottom - _TOP)
        yield f'<path d="M{_LEFT} {y:.1f}H{right}" stroke="#ddd"/>'
        yield f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">1e{decade}</text>'
    yield f'<text x="{(_LEFT + right) / 2}" y="{bottom + 36}" text-anchor="middle">{_AXES[0]}</text>'
    middle = (_TOP + bottom) / 2
    yield f'<text transform="translate(20 {middle}) rotate(-90)" text-anchor="middle">{_AXES[1]}</text>'


def _names(curves: Sequence[tuple[GroupCurve, list[tuple[float, float]], str]]) -> Iterator[str]:
    """The most sensitive groups by name."""
    x = _WIDTH - _RIGHT + 16
    for row, (group, _, colour) in enumerate(curves[:_NAMED]):
        name = group.name if len(group.name) <= 44 else f"...{group.name[-41:]}"
        yield f'<text x="{x}" y="{_TOP + 8 + 18 * row}" fill="{colour}">{escape(name)}</text>'
    if len(curves) > _NAMED:
        yield f'<text x="{x}" y="{_TOP + 8 + 18 * _NAMED}">and {len(curves) - _NAMED} more</text>'


def _png(found: Sensitivity, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH / 100, _HEIGHT / 100), layout="constrained")
    axes = figure.subplots()
    curves = _curves(found)
    for place, (group, points, colour) in enumerate(curves):
        label = group.name[-44:] if place < _NAMED else None
        axes.semilogy([r for r, _ in points], [e for _, e in points], "o-", color=colour, markersize=3, label=label)
    axes.set(xlim=(0, 1), xlabel=_AXES[0], ylabel=_AXES[1], title=found.model)
    axes.grid(visible=True, color="#ddd")
    if curves:
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=7)
    figure.savefig(path, dpi=150)
