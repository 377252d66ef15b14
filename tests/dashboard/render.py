"""Draws series as SVG, and puts the pictures into the page of the dashboard."""

import math
from html import escape, unescape

from panels import Panel

WIDTH, HEIGHT = 480, 270
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 34, 24
LEGEND_LINE = 16
# Seconds without a value that are drawn as a gap.
GAP = 5
# In days.
YEAR = 365
# They can be told apart on white and on a dark page.
COLOURS = ["#2f7ed8", "#e8710a", "#2a9d4a", "#a35ee8", "#d6336c", "#a9743f", "#0e9aa7", "#7d8590"]
# On the site the colours are those of the reader's theme there; a picture by itself goes by what the system wants.
STYLE = """\
.panel { background: var(--bg, #fff); font: 11px sans-serif; }
.panel text { fill: var(--fg, #222); stroke: none; }
.panel .grid { stroke: var(--fg, #222); stroke-opacity: 0.15; }
.panel .event { stroke: var(--fg, #222); stroke-opacity: 0.5; stroke-dasharray: 2 3; }
.panel .series { fill: none; stroke-width: 1.5; }
@media (prefers-color-scheme: dark) { svg.panel:root { --bg: #161923; --fg: #d3d7e0; } }"""
MARK = "<!-- what follows is written by `make dashboard` -->"


def number(value: float, unit: str) -> str:
    """As a person reads it on an axis.

    >>> number(0.0021, "s"), number(90, "s"), number(864000, "s"), number(0.25, "percentunit"), number(1200, "short")
    ('2.1 ms', '1.5 min', '10 d', '25%', '1200')
    >>> number(0.5, "reqps"), number(0, "s"), number(-90, "s")
    ('0.5/s', '0 s', '-1.5 min')
    >>> number(10 * 365 * 86400, "s")
    '10 y'
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
    days = value / 86400
    return f"{days:.3g} d" if abs(days) < 2 * YEAR else f"{days / YEAR:.3g} y"


def ticks(low: float, high: float, unit: str = "short") -> list[float]:
    """Round numbers that the values lie between, for people: times go by seconds, minutes, hours and days.

    >>> ticks(0, 9.3), ticks(0, 0)
    ([0, 5, 10], [0.0, 0.5, 1.0])
    >>> ticks(0, 60, "s"), ticks(0, 8000000, "s")
    ([0, 15, 30, 45, 60], [0, 2592000, 5184000, 7776000, 10368000])
    """
    if high <= low:
        high = low + 1
    rough = (high - low) / 4
    steps = [15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 43200, 86400]
    steps += [days * 86400 for days in (2, 5, 10, 30, 90, 180, YEAR, 2 * YEAR, 5 * YEAR, 10 * YEAR)]
    if unit == "s" and 10 < rough <= steps[-1]:
        step = next(step for step in steps if step >= rough)
    else:
        power = 10 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first, last = math.floor(low / step), math.ceil(high / step - 1e-9)
    return [round(position * step, 12) for position in range(first, last + 1)]


def svg(title: str, unit: str, queries: list[str], series: list[dict], seconds: float, events: list[float]) -> str:
    """One panel; `series` are legends with points of seconds and value, and `events` the seconds that are marked. It keeps
    the queries that it was drawn by.
    """
    values = [value for each in series for _, value in each["points"]]
    marks = ticks(min([0.0, *values]), max([0.0, *values]), unit)
    low, high = marks[0], marks[-1]
    bottom = HEIGHT - BOTTOM
    height = HEIGHT + LEGEND_LINE * len(series) + 4

    def x(at: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * at / seconds

    def y(value: float) -> float:
        return bottom - (bottom - TOP) * (value - low) / (high - low)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="panel" role="img" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">',
        f"<title>{escape(title)}</title>",
        f"<metadata>{escape(chr(10).join(queries), quote=False)}</metadata>",
        f"<style>{STYLE}</style>",
        f'<text x="{WIDTH / 2:g}" y="20" text-anchor="middle" font-size="14">{escape(title)}</text>',
    ]
    for mark in marks:
        parts.append(f'<path class="grid" d="M{LEFT} {y(mark):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y(mark) + 4:.1f}" text-anchor="end">{escape(number(mark, unit))}</text>')
    for at in events:
        parts.append(f'<path class="event" d="M{x(at):.1f} {TOP}V{bottom}"/>')
    for at in range(0, int(seconds) + 1, 60):
        parts.append(f'<text x="{x(at):.1f}" y="{bottom + 16}" text-anchor="middle">{at // 60}:00</text>')
    for index, each in enumerate(series):
        colour = COLOURS[index % len(COLOURS)]
        parts.append(f'<path class="series" d="{line(each["points"], x, y)}" stroke="{colour}"/>')
        top = HEIGHT + LEGEND_LINE * index + 8
        parts.append(f'<path d="M{LEFT} {top}h14" stroke="{colour}" stroke-width="3"/>')
        parts.append(f'<text x="{LEFT + 20}" y="{top + 4}">{escape(each["legend"])}</text>')
    return "\n".join([*parts, "</svg>\n"])


def line(points: list[tuple[float, float]], x, y) -> str:
    """A path through the points, interrupted where scrapes are missing. What lies on one level is drawn once.

    >>> line([(0, 1), (1, 1), (2, 1), (9, 2)], lambda at: at, lambda value: value)
    'M0.0 1.0L2.0 1.0M9.0 2.0h1'
    """
    path, previous = [], None
    for index, (at, value) in enumerate(points):
        is_first = previous is None or at - previous > GAP
        is_last = index == len(points) - 1 or points[index + 1][0] - at > GAP
        is_level = not is_first and not is_last and points[index - 1][1] == value == points[index + 1][1]
        if not is_level:
            # A point alone would not be seen.
            path.append(f"{'M' if is_first else 'L'}{x(at):.1f} {y(value):.1f}{'h1' if is_first and is_last else ''}")
        previous = at
    return "".join(path)


def queries_of(picture: str) -> list[str]:
    """What a picture was drawn by."""
    return unescape(picture.partition("<metadata>")[2].partition("</metadata>")[0]).splitlines()


def clock(seconds: float) -> str:
    """
    >>> clock(0), clock(61.6)
    ('0:00', '1:02')
    """
    return f"{round(seconds) // 60}:{round(seconds) % 60:02}"


def figure(panel: Panel) -> str:
    """The picture of a panel in the page, with what the dashboard says of it."""
    image = f'<img src="dashboard/{panel.name}.svg" alt="{escape(panel.title)}">'
    return f"<figure>{image}<figcaption>{escape(panel.description, quote=False)}</figcaption></figure>"


def page(text: str, events: list[tuple[float, str]], panels: list[Panel]) -> str:
    """The page with these events, and the panels' pictures."""
    table = "\n".join(f"| {clock(at)} | {what} |" for at, what in events)
    images = "\n".join(map(figure, panels))
    head = text.partition(MARK)[0]
    return f'{head}{MARK}\n\n| time | |\n|---|---|\n{table}\n\n<div class="panels">\n{images}\n</div>\n'
