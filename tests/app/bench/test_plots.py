"""How a report looks: its table, and plots in characters, as SVG and as PNG."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET
from collections.abc import Callable

import msgspec
import pytest
from PIL import Image

from app.bench.chart import Chart, chart
from app.bench.drawing import HEIGHT, WIDTH, Words, shapes
from app.bench.pictures import png, svg
from app.bench.plot_text import draw
from app.bench.table import columns
from engine.protocol.bench import BenchReport

MakeReport = Callable[..., BenchReport]
HOSTILE = '</text><script>&"\x1b[31m'


def chart_of(report: BenchReport) -> Chart:
    found = chart(report)
    assert found is not None
    return found


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_plot_in_characters_fits_and_shows_every_point_with_its_budget(
    make_report: MakeReport, width: int
) -> None:
    lines = draw(chart_of(make_report(["small", "large"])), width)
    assert max(map(len, lines)) <= min(width, 100)
    drawn = "\n".join(lines[:-1])
    assert drawn.count("●") == drawn.count("▲") == 4
    assert all(drawn.count(budget) >= 1 for budget in ("off", "8", "32", "max"))
    assert "● small" in lines[-1] and "▲ large" in lines[-1] and "FLOPs per answer" in drawn


def test_what_is_higher_solves_more_and_what_is_further_right_costs_more(make_report: MakeReport) -> None:
    lines = draw(chart_of(make_report()), 80)
    places = sorted((line.index("●"), -number) for number, line in enumerate(lines) if "●" in line)
    assert len(places) == 4 and places == sorted(places, key=lambda place: place[1])


def test_an_svg_is_xml_whatever_models_are_called(make_report: MakeReport) -> None:
    text = svg(chart_of(make_report([HOSTILE, "tiny"])))
    root = ET.fromstring(text)
    assert not [element for element in root.iter() if element.tag.endswith("script")] and "\x1b" not in text
    assert len([element for element in root.iter() if element.tag.endswith("circle")]) == 8 + 2
    assert {"off", "8", "32", "max", "tiny"} <= {element.text for element in root.iter()}


def test_nothing_is_drawn_outside_of_the_page(make_report: MakeReport) -> None:
    for shape in shapes(chart_of(make_report(["small", "large"]))):
        points = getattr(shape, "points", None) or (shape.at,)  # type: ignore[union-attr]
        assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points), shape
        assert not isinstance(shape, Words) or shape.text


def test_a_png_has_the_colors_of_the_lines(make_report: MakeReport) -> None:
    image = Image.open(io.BytesIO(png(chart_of(make_report(["small", "large"])))))
    colors = {color for _, color in image.getcolors(1 << 24) or []}
    assert image.size == (2 * WIDTH, 2 * HEIGHT)
    assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0xB8, 0xB8, 0xB8)} <= colors


def test_a_table_of_two_models_fits_eighty_columns_and_says_how_each_figure_was_obtained(
    make_report: MakeReport,
) -> None:
    report = make_report(["tiny", "Qwen/Qwen3-0.6B-Instruct-2507"])
    headings, rows = columns(report, 80)
    widths = [max(map(len, cells)) for cells in zip(headings, *rows, strict=True)]
    assert sum(widths) + 2 * (len(widths) - 1) <= 80
    assert {"tokens ●", "time ●", "compute ◐", "energy"} <= set(headings) and "method" not in headings
    assert {row[0] for row in rows} == {"tiny", "Qwen3-0.6…2507"} and all("n/a" in row for row in rows)
    modelled = msgspec.structs.replace(report.cells[0].flops, method="modelled")
    mixed = (msgspec.structs.replace(report.cells[0], flops=modelled), *report.cells[1:])
    headings, rows = columns(msgspec.structs.replace(report, cells=mixed), 80)
    at = headings.index("compute")
    assert [row[at][-1] for row in rows] == ["○"] + ["◐"] * 7


def test_without_a_figure_for_the_cost_there_is_no_plot(make_report: MakeReport) -> None:
    assert chart(make_report(against="joules")) is None
    report = make_report()
    assert chart(msgspec.structs.replace(report, cells=report.cells[:1])) is None
