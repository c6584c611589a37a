"""docs/performance.json as docs/performance.svg: bars of CPU per request as a part of bare's."""

from __future__ import annotations

import json
from html import escape

from bench.cpu import RESULT

WIDTH, BAR, LEFT, TOP = 640, 18, 130, 40
COLOURS = ("#8899aa", "#3366cc", "#22aa77", "#cc6633", "#aa55aa", "#bbaa33", "#55bbcc")
NAMES = {
    "plain": "plain, keep-alive",
    "tls": "TLS, keep-alive",
    "new": "TLS, new connection each",
    "h2": "HTTP/2",
}


def draw(data: dict[str, dict[str, dict[str, dict[str, float]]]]) -> str:
    """The SVG. Ratios above 1.5 are cut, with their figure beside."""
    table = data["table"]
    kinds = list(next(iter(table.values())))
    scale, parts, y = (WIDTH - LEFT - 90) / 1.5, [], TOP
    for kind in kinds:
        parts.append(
            f'<text x="4" y="{y + 12}" font-weight="bold">{escape(NAMES.get(kind, kind))}</text>'
        )
        y += BAR
        for colour, (name, cells) in zip(COLOURS, table.items(), strict=False):
            if kind not in cells:
                continue
            ratio, cost = cells[kind]["ratio"], cells[kind]["cpu_us"]
            width = min(ratio, 1.5) * scale
            parts.append(
                f'<text x="{LEFT - 8}" y="{y + 13}" text-anchor="end">{escape(name)}</text>'
            )
            parts.append(
                f'<rect x="{LEFT}" y="{y}" width="{width:.0f}" height="{BAR - 4}" fill="{colour}"/>'
            )
            label = f"{ratio:.2f} ({cost:.0f} µs)"
            parts.append(f'<text x="{LEFT + width + 6:.0f}" y="{y + 12}">{label}</text>')
            y += BAR
        y += 8
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}"'
        ' font-family="sans-serif" font-size="12">'
        '<rect width="100%" height="100%" fill="#fff"/>'
        f'<text x="4" y="16">CPU per request, bare = 1; {escape(str(data["machine"]))}</text>'
    )
    return "\n".join([head, *parts, "</svg>"]) + "\n"


def main() -> None:
    RESULT.with_suffix(".svg").write_text(draw(json.loads(RESULT.read_text())))


if __name__ == "__main__":
    main()
