"""Draws series as SVG, and puts the pictures into the page of the dashboard."""

import math
from html import escape

WIDTH, HEIGHT = 480, 270
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 34, 24
LEGEND_LINE = 16
COLOURS = ["#1f77b4", "#d95f02", "#2ca02c", "#9467bd", "#c2185b", "#7a5230", "#0097a7", "#616161"]


def number(value: float, unit: str) -> str:
    """As a person reads it on an axis.

    >>> number(0.0021, "s"), number(90, "s"), number(864000, "s"), number(0.25, "percentunit"), number(1200, "short")
    ('2.1 ms', '1.5 min', '10 d', '25%', '1200')
    >>> number(0.5, "reqps"), number(0, "s")
    ('0.5/s', '0 s')
    """
    if unit == "percentunit":
        return f"{value * 100:.3g}%"
    if unit == "reqps":
        return f"{value:.3g}/s"
    if unit != "s":
        return f"{value:.4g}"
    if value == 0:
        return "0 s"
    for below, scale, name in [(1e-3, 1e6, "µs"), (1, 1e3, "ms"), (60, 1, "s"), (3600, 1 / 60, "min"), (86400, 1 / 3600, "h")]:
        if abs(value) < below:
            return f"{value * scale:.3g} {name}"
    return f"{value / 86400:.3g} d"


def ticks(low: float, high: float) -> list[float]:
    """Round numbers that the values lie between.

    >>> ticks(0, 9.3), ticks(0, 0)
    ([0, 5, 10], [0.0, 0.5, 1.0])
    """
    if high <= low:
        high = low + 1
    rough = (high - low) / 4
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(position * step, 12) for position in range(first, last + 1)]


def svg(title: str, unit: str, series: list[dict], seconds: float) -> str:
    """One panel; `series` are legends with points of seconds and value."""
    values = [value for each in series for _, value in each["points"]]
    marks = ticks(min([0.0, *values]), max([0.0, *values]))
    low, high = marks[0], marks[-1]
    bottom = HEIGHT - BOTTOM
    height = HEIGHT + LEGEND_LINE * max(1, len(series)) + 4

    def x(at: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * at / seconds

    def y(value: float) -> float:
        return bottom - (bottom - TOP) * (value - low) / (high - low)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
        ' font-family="sans-serif" font-size="11">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="{WIDTH / 2:g}" y="20" text-anchor="middle" font-size="14" fill="#222">{escape(title)}</text>',
    ]
    for mark in marks:
        parts.append(f'<path d="M{LEFT} {y(mark):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        label = escape(number(mark, unit))
        parts.append(f'<text x="{LEFT - 6}" y="{y(mark) + 4:.1f}" text-anchor="end" fill="#444">{label}</text>')
    for at in range(0, int(seconds) + 1, 60):
        label = f"{at // 60} min"
        parts.append(f'<text x="{x(at):.1f}" y="{bottom + 16}" text-anchor="middle" fill="#444">{label}</text>')
    for index, each in enumerate(series):
        colour = COLOURS[index % len(COLOURS)]
        parts.append(f'<path d="{line(each["points"], x, y)}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        top = HEIGHT + LEGEND_LINE * index + 8
        parts.append(f'<path d="M{LEFT} {top}h14" stroke="{colour}" stroke-width="3"/>')
        last = escape(number(each["points"][-1][1], unit))
        parts.append(f'<text x="{LEFT + 20}" y="{top + 4}" fill="#222">{escape(each["legend"])}: {last}</text>')
    if not series:
        parts.append(f'<text x="{LEFT}" y="{HEIGHT + 12}" fill="#666">nothing to show, as it should be</text>')
    return "\n".join([*parts, "</svg>\n"])


def line(points: list[tuple[float, float]], x, y) -> str:
    """A path through the points, interrupted where scrapes are missing. What lies on one level is drawn once."""
    path, previous = [], None
    for index, (at, value) in enumerate(points):
        gap = previous is None or at - previous > 5
        is_level = not gap and 0 < index < len(points) - 1 and points[index - 1][1] == value == points[index + 1][1]
        if not is_level or points[index + 1][0] - at > 5:
            path.append(f"{'M' if gap else 'L'}{x(at):.1f} {y(value):.1f}")
        previous = at
    return "".join(path)


def page(text: str, pictures: list[tuple[str, str]]) -> str:
    """The page with these pictures: file names below `dashboard/`, and titles."""
    head, _ = text.split("<!-- panels", 1)
    images = "\n".join(f'<img src="dashboard/{name}.svg" alt="{escape(title)}">' for name, title in pictures)
    mark = "<!-- panels: drawn by `make dashboard-screenshots` -->"
    return f'{head}{mark}\n\n<div class="panels">\n{images}\n</div>\n'
