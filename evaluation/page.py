"""One HTML page that needs nothing but itself: pictures and videos are inside it."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..files import write_bytes

_KINDS = {".png": "image/png", ".gif": "image/gif", ".mp4": "video/mp4"}

_STYLE = """
:root { color-scheme: light; --ink: #1e1e22; --faint: #66666e; --paper: #fafaf7; --rule: #dcdcd6; }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       max-width: 62rem; margin: 2.5rem auto 4rem; padding: 0 1.2rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .4rem; padding-top: 1.1rem; border-top: 1px solid var(--rule); }
p { max-width: 46rem; margin: .5rem 0; }
.lead, figcaption, footer { color: var(--faint); }
figure { margin: 1.1rem 0; }
figcaption { font-size: .88rem; max-width: 46rem; margin-top: .35rem; }
img, video { max-width: 100%; height: auto; display: block; border: 1px solid var(--rule); }
img.pixels, video { image-rendering: pixelated; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .28rem 1.4rem .28rem 0; border-bottom: 1px solid var(--rule); }
th { font-weight: 600; font-size: .88rem; color: var(--faint); }
code { font: .88em ui-monospace, monospace; background: #efefe9; padding: .1em .3em; border-radius: 3px; }
footer { font-size: .85rem; margin-top: 3rem; }
"""


@dataclass(frozen=True)
class Picture:
    """A picture or video on a page.

    Attributes:
        path: a PNG, GIF or mp4 file.
        caption: what it shows, in one or two sentences.
        pixels: whether pixels shall stay squares when the page scales it.
    """

    path: Path
    caption: str
    pixels: bool = True


@dataclass(frozen=True)
class Table:
    """Numbers on a page: column names and rows of text."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Section:
    """A heading with paragraphs, tables and pictures below it, in this order."""

    title: str
    paragraphs: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()


def write_page(path: Path, title: str, lead: str, sections: Sequence[Section], footer: str = "") -> Path:
    """Write the page to ``path``, whole or not at all, with every picture inside it. All texts are escaped.

    Raises:
        ValueError: a picture that is neither PNG, GIF nor mp4.
    """
    body = "\n".join(_section(section) for section in sections)
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f'<h1>{html.escape(title)}</h1>\n<p class="lead">{html.escape(lead)}</p>\n{body}\n'
        f"<footer>{html.escape(footer)}</footer>\n</body>\n</html>\n"
    )
    write_bytes(path, page.encode())
    return path


def _section(section: Section) -> str:
    parts = [f"<h2>{html.escape(section.title)}</h2>"]
    parts += [f"<p>{html.escape(paragraph)}</p>" for paragraph in section.paragraphs]
    parts += [_table(table) for table in section.tables]
    parts += [_figure(picture) for picture in section.pictures]
    return "\n".join(parts)


def _table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in table.head)
    rows = "\n".join(
        "<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in table.rows
    )
    return f"<table>\n<tr>{head}</tr>\n{rows}\n</table>"


def _figure(picture: Picture) -> str:
    kind = _KINDS.get(picture.path.suffix)
    if kind is None:
        raise ValueError(f"A page shows {', '.join(_KINDS)} files, not {picture.path.name}.")
    data = f"data:{kind};base64,{base64.b64encode(picture.path.read_bytes()).decode()}"
    caption = html.escape(picture.caption)
    if kind.startswith("video"):
        # Muted and inline, so that browsers let it play by itself; controls, so that one can stop and look.
        media = f'<video src="{data}" controls autoplay loop muted playsinline></video>'
    else:
        shape = ' class="pixels"' if picture.pixels else ""
        media = f'<img{shape} src="{data}" alt="{caption}">'
    return f"<figure>\n{media}\n<figcaption>{caption}</figcaption>\n</figure>"
