"""Charts as files: SVG, written here, and PNG, drawn by Pillow where that is installed."""

from __future__ import annotations

import io
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from app.bench.chart import Chart
from app.bench.drawing import HEIGHT, WIDTH, Dot, Line, Shape, Words, shapes
from app.errors import CommandError
from app.sanitise import clean_line

SCALE = 2
"""Pixels of a PNG to one of the drawing: for screens with many."""
FORMATS = (".svg", ".png")


def picture(chart: Chart, path: Path) -> bytes:
    """The content of the file, by its ending. Raises CommandError."""
    return svg(chart).encode() if path.suffix.lower() == ".svg" else png(chart)


def check(path: Path) -> None:
    """Whether such a file can be written, before there is anything to draw. Raises CommandError."""
    if path.suffix.lower() not in FORMATS:
        raise CommandError(f"--plot {path}: a plot is {' or '.join(FORMATS)}", status=2)
    if path.suffix.lower() == ".png":
        try:
            import PIL.ImageDraw
            import PIL.ImageFont  # noqa: F401
        except ImportError:
            raise CommandError("a PNG needs Pillow", 'pip install "mull[plot]", or --plot FILE.svg') from None


def svg(chart: Chart) -> str:
    """The chart as a picture that scales."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" font-family="Helvetica, Arial, sans-serif" role="img">',
        f"<title>{escape(clean_line(chart.title))}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        *(_element(shape) for shape in shapes(chart)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _element(shape: Shape) -> str:
    match shape:
        case Line(points=points, color=color, width=width):
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            return (
                f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="{width:g}"'
                f' stroke-linejoin="round" stroke-linecap="round"/>'
            )
        case Dot(at=(x, y), radius=radius, color=color):
            return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" fill="{color}"/>'
        case Words(at=(x, y), text=text, color=color, size=size, anchor=anchor):
            return (
                f'<text x="{x:.1f}" y="{y:.1f}" fill="{color}" font-size="{size}" '
                f"text-anchor={quoteattr(anchor)}>{escape(clean_line(text))}</text>"
            )


def png(chart: Chart) -> bytes:
    """The chart in pixels. Raises CommandError where Pillow is not there."""
    check(Path("plot.png"))
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), "#ffffff")
    draw = ImageDraw.Draw(image)
    for shape in shapes(chart):
        match shape:
            case Line(points=points, color=color, width=width):
                draw.line(
                    [(x * SCALE, y * SCALE) for x, y in points], color, round(width * SCALE), joint="curve"
                )
            case Dot(at=(x, y), radius=radius, color=color):
                draw.circle((x * SCALE, y * SCALE), radius * SCALE, fill=color)
            case Words(at=(x, y), text=text, color=color, size=size, anchor=anchor):
                font = ImageFont.load_default(size * SCALE)
                side = {"start": "l", "middle": "m", "end": "r"}[anchor]
                draw.text((x * SCALE, y * SCALE), clean_line(text), color, font, anchor=f"{side}s")
    content = io.BytesIO()
    image.save(content, "PNG", optimize=True)
    return content.getvalue()
