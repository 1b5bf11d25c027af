"""The picture of docs/architecture-of-this-code.md, from the imports: a row a floor, a box a room.

    python docs/draw_floors.py            draws it
    python docs/draw_floors.py --check    ends with 1 when it is not the one that would be drawn

The floors are those of the contract in pyproject.toml. A line says that a room imports another;
one that two others imply (a calls b, b calls c, a calls c) is left out, so that what remains can be followed.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from xml.sax.saxutils import escape

import grimp

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "architecture-of-this-code.svg"
GROUND = "the ground"
WIDTH, MARGIN, GAP, HEIGHT, BETWEEN, LINE = 1080, 24, 28, 46, 56, 13
_STYLE = """
  text { font: 15px sans-serif; fill: #1f2933 } .small { font-size: 10.5px; fill: #52606d }
  rect { fill: #f5f7fa; stroke: #9aa5b1 } path { fill: none; stroke: #3e7cb1; stroke-width: 2 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e4e7eb } .small { fill: #9aa5b1 } rect { fill: #1f2933; stroke: #52606d } }
"""


def floors() -> list[list[str]]:
    """The rooms, floor by floor from the roof down; what lies on the ground is one room."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(one["layers"] for one in contracts if one["type"] == "layers")
    rows = [[name.strip() for name in layer.split(":")] for layer in layers]
    return [rows[0], ["pipelines"], *rows[1:-1], [GROUND]]


def room_of(module: str, known: set[str]) -> str:
    """The room that a module is in."""
    parts = module.split(".")
    name = "pipelines" if parts[0] == "pipelines" else parts[1] if len(parts) > 1 else ""
    return name if name in known else GROUND


def between(rows: list[list[str]]) -> tuple[set[tuple[str, str]], dict[str, list[str]]]:
    """Which room imports which, and the modules of each."""
    known = {name for row in rows for name in row}
    graph = grimp.build_graph("ci", "pipelines", cache_dir=None)
    imports: set[tuple[str, str]] = set()
    modules: dict[str, list[str]] = {name: [] for name in known}
    for module in sorted(graph.modules - {"ci"}):
        own = room_of(module, known)
        name = module.rsplit(".", 1)[-1]
        if name != "__main__" and (own == GROUND or module.count(".") == (1 if own == "pipelines" else 2)):
            modules[own].append(name)
        for other in graph.find_modules_directly_imported_by(module):
            if other != "ci" and room_of(other, known) != own:
                imports.add((own, room_of(other, known)))
    return imports, modules


def reduced(imports: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Without those that a way over another room implies."""
    below: dict[str, set[str]] = {}
    for above, under in imports:
        below.setdefault(above, set()).add(under)

    def reach(room: str) -> set[str]:
        return {deep for next_ in below.get(room, ()) for deep in {next_, *reach(next_)}}

    return {
        (above, under)
        for above, under in imports
        if not any(under in reach(other) for other in below[above] - {under})
    }


def wrapped(names: list[str], width: int) -> list[str]:
    """The names in lines of at most so many letters."""
    lines = [""]
    for name in names:
        if lines[-1] and len(lines[-1]) + len(name) + 3 > width:
            lines.append("")
        lines[-1] += (" · " if lines[-1] else "") + name
    return lines


def draw() -> str:
    """The picture, as SVG."""
    rows = floors()
    imports, modules = between(rows)
    boxes: dict[str, tuple[float, float, float, float]] = {}
    drawn: list[str] = []
    top = float(MARGIN)
    for row in rows:
        width = (WIDTH - 2 * MARGIN - GAP * (len(row) - 1)) / len(row)
        texts = {name: wrapped(modules[name], int(width / 5.6)) for name in row}
        height = float(HEIGHT) + LINE * max(len(lines) for lines in texts.values())
        for column, name in enumerate(row):
            left = MARGIN + column * (width + GAP)
            boxes[name] = (left, top, width, height)
            drawn.append(
                f'<rect x="{left:.0f}" y="{top:.0f}" width="{width:.0f}" height="{height:.0f}" rx="6"/>'
            )
            drawn.append(f'<text x="{left + 12:.0f}" y="{top + 24:.0f}">{escape(name)}</text>')
            for index, line in enumerate(texts[name]):
                y = top + 42 + LINE * index
                drawn.append(f'<text class="small" x="{left + 12:.0f}" y="{y:.0f}">{escape(line)}</text>')
        top += height + BETWEEN
    lines = []
    for above, under in sorted(reduced(imports)):
        (left, y, width, height), (low_left, low_y, low_width, _) = boxes[above], boxes[under]
        start, end = left + width / 2, low_left + low_width / 2
        if low_y <= y:  # neighbours on one floor
            side = (left + width, low_left) if left < low_left else (left, low_left + low_width)
            lines.append(f'<path d="M{side[0]:.0f},{y + 20:.0f} L{side[1]:.0f},{y + 20:.0f}"')
        else:
            bend = (low_y - y - height) / 2
            lines.append(
                f'<path d="M{start:.0f},{y + height:.0f} C{start:.0f},{y + height + bend:.0f} '
                f'{end:.0f},{low_y - bend:.0f} {end:.0f},{low_y:.0f}"'
            )
        lines[-1] += "/>"
    bottom = top - BETWEEN + MARGIN
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom:.0f}" role="img">'
    return "\n".join((head, f"<style>{_STYLE}</style>", *lines, *drawn, "</svg>", ""))


if __name__ == "__main__":
    picture = draw()
    if "--check" in sys.argv[1:]:
        if not PICTURE.exists() or PICTURE.read_text() != picture:
            sys.exit("docs/architecture-of-this-code.svg is not of these imports: python docs/draw_floors.py")
    else:
        PICTURE.write_text(picture)
