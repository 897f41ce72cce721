"""The start of a pod beside the bare machine's, as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from figures import Samples

_WIDTH, _LEFT, _ROW, _TOP = 720, 150, 34, 40


def strip_plot(title: str, rows: Mapping[str, Samples], unit: str) -> str:
    """An SVG with one row of dots for each name, every sample a dot, a line at the median."""
    longest = max(value for samples in rows.values() for value in samples.values) * 1.08
    scale = (_WIDTH - _LEFT - 20) / longest
    height = _TOP + _ROW * len(rows) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="10" y="20" font-size="14">{escape(title)}</text>',
    ]
    for number, (name, samples) in enumerate(rows.items()):
        y = _TOP + _ROW * number + _ROW // 2
        parts.append(f'<text x="10" y="{y + 4}">{escape(name)}</text>')
        parts += [
            f'<circle cx="{_LEFT + value * scale:.1f}" cy="{y}" r="4" fill="#2a6f97" '
            'fill-opacity="0.5"/>'
            for value in samples.values
        ]
        x = _LEFT + samples.median * scale
        parts.append(f'<path d="M{x:.1f} {y - 12}v24" stroke="#c1121f" stroke-width="2"/>')
        parts.append(f'<text x="{x + 6:.1f}" y="{y - 7}">{samples.median:.0f}</text>')
    base = _TOP + _ROW * len(rows)
    parts.append(f'<path d="M{_LEFT} {base}H{_WIDTH - 20}" stroke="black"/>')
    parts.append(f'<text x="{_LEFT}" y="{base + 18}">0</text>')
    right = _WIDTH - 20
    parts.append(f'<text x="{right}" y="{base + 18}" text-anchor="end">{longest:.0f} {unit}</text>')
    return "\n".join([*parts, "</svg>", ""])
