"""Pages and plots of the reports: one HTML file that needs nothing else, with plots as SVG."""

import base64
import html
import io

import numpy as np
from PIL import Image

from cdm.images.files import replace

COLOURS = ("#3b6ea5", "#d98032", "#4f9d69", "#b04a5a", "#7a5ea8", "#8a8a8a", "#26a6a6", "#c2a52e", "#222222")
STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:62em;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0}td,th{padding:.25em .8em;text-align:right;border-bottom:1px solid #ddd}
td:first-child,th:first-child{text-align:left}img{image-rendering:pixelated;max-width:100%}
svg text{font:12px sans-serif}
figure{margin:1.5em 0}figcaption{color:#555}.best{font-weight:600}"""


def write_page(path, title, parts):
    """An HTML page of `parts`, each a piece of HTML."""
    body = "\n".join(parts)
    title = html.escape(title)
    text = (f'<!doctype html>\n<html lang="en"><meta charset="utf-8">'
            f'<meta name="viewport" content="width=device-width"><title>{title}</title><style>{STYLE}</style>\n'
            f"<h1>{title}</h1>\n{body}\n</html>\n")
    replace(path, lambda p: p.write_text(text, encoding="utf-8"))


def paragraph(text):
    """A paragraph of a text."""
    return f"<p>{html.escape(text)}</p>"


def table(head, rows, best=()):
    """A table of texts; rows whose index is in `best` stand out."""
    def line(cells, tag, style=""):
        return f"<tr{style}>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"

    lines = [line(head, "th"), *(line(r, "td", ' class="best"' if i in best else "") for i, r in enumerate(rows))]
    return "<table>" + "\n".join(lines) + "</table>"


def picture(image, caption):
    """A figure of [H, W, 3] uint8."""
    data = io.BytesIO()
    Image.fromarray(image).save(data, format="webp", quality=95)  # to be looked at: a fifth of a PNG
    source = base64.b64encode(data.getvalue()).decode()
    return (f'<figure><img alt="{html.escape(caption)}" src="data:image/webp;base64,{source}">'
            f"<figcaption>{html.escape(caption)}</figcaption></figure>")


def _ticks(low, high):
    """About five round numbers in [low, high]."""
    step = 10 ** np.floor(np.log10((high - low) / 4))
    step *= next(f for f in (1, 2, 5, 10) if (high - low) / (step * f) <= 6)
    return np.arange(np.ceil(low / step), np.floor(high / step + 1e-9) + 1) * step + 0.0  # no -0


class _Axes:
    """The frame of a plot: maps data to its pixels and holds its elements."""

    WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 640, 320, 70, 45, 34

    def __init__(self, y_range, label, x_range=None, x_label=""):
        low, high = y_range
        pad = 0.05 * (high - low) or 1.0
        self.y_range = min(low - pad * (low < 0), low), high + pad
        self.x_range, self.out = x_range, []
        for tick in _ticks(*self.y_range):
            y = self.y(tick)
            self.out.append(f'<line x1="{self.LEFT}" x2="{self.WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
            self.text(self.LEFT - 6, y + 4, f"{tick:.4g}", "end")
        self.text(14, (self.HEIGHT - self.BOTTOM + self.TOP) / 2, label, turned=True)
        if x_range:
            for tick in _ticks(*x_range):
                self.text(self.x(tick), self.HEIGHT - self.BOTTOM + 18, f"{tick:.4g}")
            self.text((self.LEFT + self.WIDTH) / 2, self.HEIGHT - 6, x_label)

    def y(self, value):
        low, high = self.y_range
        inner = self.HEIGHT - self.BOTTOM - self.TOP
        return self.TOP + inner * (high - value) / (high - low)

    def x(self, value):
        low, high = self.x_range
        return self.LEFT + 15 + (self.WIDTH - self.LEFT - 30) * (value - low) / ((high - low) or 1)

    def text(self, x, y, text, anchor="middle", turned=False):
        turn = f' transform="rotate(-90 {x} {y})"' if turned else ""
        self.out.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turn}>{html.escape(text)}</text>')

    def bar(self, x, width, value, error, colour):
        top, zero = sorted((self.y(value), self.y(0)))
        self.out.append(f'<rect x="{x:.1f}" y="{top:.1f}" width="{width:.1f}" height="{zero - top:.1f}" '
                        f'fill="{colour}"/>')
        self.whisker(x + width / 2, value, error)

    def whisker(self, x, value, error):
        if error:
            self.out.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{self.y(value - error):.1f}" '
                            f'y2="{self.y(value + error):.1f}" stroke="#222"/>')

    def svg(self, caption):
        return (f'<figure><svg viewBox="0 0 {self.WIDTH} {self.HEIGHT}" width="{self.WIDTH}" role="img" '
                f'xmlns="http://www.w3.org/2000/svg">{"".join(self.out)}</svg>'
                f"<figcaption>{html.escape(caption)}</figcaption></figure>")


def bars(groups, series, values, errors, label, caption):
    """A bar chart: values[series][group], None where there is none, with errors of the same shape; whiskers are one
    error up and down."""
    reach = [v + s * (e or 0) for row, error in zip(values, errors) for v, e in zip(row, error) if v is not None
             for s in (-1, 1)]
    axes = _Axes((min(0.0, *reach), max(0.0, *reach)), label)
    room = (axes.WIDTH - axes.LEFT) / len(groups)
    width = 0.8 * room / len(series)
    for g, group in enumerate(groups):
        begin = axes.LEFT + g * room + 0.1 * room
        axes.text(axes.LEFT + (g + 0.5) * room, axes.HEIGHT - axes.BOTTOM + 18, group)
        for s in range(len(series)):
            if values[s][g] is not None:
                axes.bar(begin + s * width, 0.92 * width, values[s][g], errors[s][g], COLOURS[s % len(COLOURS)])
    _legend(axes, series)
    return axes.svg(caption)


def points(series, x_label, y_label, caption, marked=None):
    """A scatter plot: series maps a name to rows (x, y, error); the row `marked` is ringed."""
    every = [row for rows in series.values() for row in rows]
    xs = [x for x, *_ in every]
    axes = _Axes((min(y - e for _, y, e in every), max(y + e for _, y, e in every)), y_label,
                 (min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1), x_label)
    for s, rows in enumerate(series.values()):
        for row in rows:
            x, y = axes.x(row[0]), axes.y(row[1])
            axes.whisker(x, row[1], row[2])
            axes.out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{COLOURS[s % len(COLOURS)]}"/>')
            if row == marked:
                axes.out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="8" fill="none" stroke="#222"/>')
    _legend(axes, list(series))
    return axes.svg(caption)


def _legend(axes, names):
    rows = 1 if len(names) <= 5 else 2
    columns = -(-len(names) // rows)
    for i, name in enumerate(names):
        x = axes.LEFT + 10 + i % columns * (axes.WIDTH - axes.LEFT) / columns
        y = 6 - 4 * (rows - 1) + i // columns * 14
        axes.out.append(f'<rect x="{x:.1f}" y="{y:.0f}" width="10" height="10" '
                        f'fill="{COLOURS[i % len(COLOURS)]}"/>')
        axes.text(x + 15, y + 9, name, "start")
