"""A self-contained HTML page: sections, tables and images in one file that needs no network.

Every text is escaped; images are embedded. The page reads well on a phone and in dark mode.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from cpr.visualization.draw import encode_image
from cpr_deploy.files import write_text

_STYLE = """
:root { color-scheme: light dark; --text: #1c2024; --soft: #5b646d; --line: #d9dee3;
  --page: #ffffff; --card: #f5f7f9; --accent: #0b6b57; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e9ec; --soft: #9aa5b0; --line: #343b42;
  --page: #14171a; --card: #1d2125; --accent: #5fd0b3; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem 1rem 4rem; background: var(--page);
  color: var(--text); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .5rem; padding-top: 1rem;
  border-top: 1px solid var(--line); }
p { margin: .5rem 0; max-width: 46rem; }
.lead, figcaption, .label { color: var(--soft); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .8rem .4rem 0; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th { font-weight: 600; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: .8rem 0; max-width: 100%; }
figure img { max-width: 100%; height: auto; border-radius: 6px; display: block; }
figcaption { font-size: .9rem; margin-top: .35rem; max-width: 46rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .7rem;
  margin: 1.2rem 0; }
.card { background: var(--card); border-radius: 8px; padding: .8rem 1rem; }
.value { font-size: 1.4rem; white-space: nowrap; font-weight: 650; color: var(--accent); }
.label { font-size: .85rem; }
pre { background: var(--card); padding: .8rem 1rem; border-radius: 8px; overflow-x: auto;
  font-size: .85rem; }
"""


class Report:
    """Collects the parts of a page in order; `html()` or `save(path)` gives the page."""

    def __init__(self, title: str, lead: str = "") -> None:
        self.title = title
        self._parts = [f"<h1>{escape(title)}</h1>"]
        if lead:
            self._parts.append(f'<p class="lead">{escape(lead)}</p>')

    def section(self, title: str) -> None:
        self._parts.append(f"<h2>{escape(title)}</h2>")

    def paragraph(self, text: str) -> None:
        self._parts.append(f"<p>{escape(text)}</p>")

    def code(self, text: str) -> None:
        self._parts.append(f"<pre>{escape(text)}</pre>")

    def cards(self, cards: Sequence[tuple[str, str]]) -> None:
        """A row of (value, label) pairs, for the few figures that matter most."""
        body = "".join(
            f'<div class="card"><div class="value">{escape(value)}</div>'
            f'<div class="label">{escape(label)}</div></div>'
            for value, label in cards
        )
        self._parts.append(f'<div class="cards">{body}</div>')

    def table(
        self, header: Sequence[str], rows: Sequence[Sequence[object]], caption: str = ""
    ) -> None:
        """A table; the first column is text, the others are numbers (right-aligned)."""
        for row in rows:
            if len(row) != len(header):
                raise ValueError(f"row of {len(row)} cells under a header of {len(header)}: {row}")
        head = "".join(f'<th scope="col">{escape(str(cell))}</th>' for cell in header)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>"
            for row in rows
        )
        # Not a <caption>: that would be as wide as the table, which scrolls on a narrow screen.
        title = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
        self._parts.append(
            f'<figure><div class="scroll"><table><thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>{title}</figure>"
        )

    def image(self, image: bytes | np.ndarray, caption: str) -> None:
        """A PNG or JPEG file's bytes, or RGB uint8 (H, W, 3), which is embedded as JPEG."""
        self.images([(image, caption)])

    def images(self, images: Sequence[tuple[bytes | np.ndarray, str]]) -> None:
        """Several (image, caption) pairs side by side, where the screen is wide enough."""
        figures = []
        for image, caption in images:
            data = encode_image(image, ".jpg") if isinstance(image, np.ndarray) else image
            text = escape(caption)
            figures.append(
                f'<figure><img src="data:{_media_type(data)};base64,'
                f'{base64.b64encode(data).decode()}" alt="{text}" loading="lazy">'
                f"<figcaption>{text}</figcaption></figure>"
            )
        self._parts.append(f'<div class="figures">{"".join(figures)}</div>')

    def html(self) -> str:
        body = "\n".join(self._parts)
        return (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(self.title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
            f"<body>\n{body}\n</body>\n</html>\n"
        )

    def save(self, path: str | Path) -> None:
        """Writes the page, atomically."""
        write_text(path, self.html())


def _media_type(data: bytes) -> str:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8"):
        return "image/jpeg"
    raise ValueError("an embedded image must be PNG or JPEG")
