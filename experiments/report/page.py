"""One HTML page of sections with pictures and tables, and nothing from outside.

Pictures are inline SVG whose colours are variables of the page's style, so
that the same picture suits a light and a dark page. There is no script, and
the page's own policy forbids requests.
"""

import dataclasses
import html
import io
import re
from collections.abc import Sequence

from matplotlib.figure import Figure

from experiments import style


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure as the page shows it."""

    name: str  # unique on the page
    svg: str  # of `svg`
    title: str  # what it shows, for those who cannot see it
    caption: str  # below it


@dataclasses.dataclass(frozen=True)
class Table:
    """Text in rows; the first column names the row.

    Attributes:
        columns: headings.
        rows: texts; after a line break comes a smaller line.
        caption: above it.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str


@dataclasses.dataclass(frozen=True)
class Section:
    """An experiment."""

    title: str  # of the section
    lead: str  # what it comes to, in a sentence or two
    facts: str  # small print: batch size and the like
    tables: Sequence[Table] = ()  # of its runs
    pictures: Sequence[Picture] = ()  # of its runs


def svg(figure: Figure) -> str:
    """The figure as an SVG file's text."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()


def inline(text: str, name: str) -> str:
    """An SVG file as part of a page.

    Its size is the page's matter, its ids begin with a name, and colours are
    variables with the figure's own as their default.
    """
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r'\s(width|height)="[\d.]+pt"', "", text, count=2)
    text = text.replace(' id="', f' id="{name}-')
    text = text.replace('href="#', f'href="#{name}-')
    text = text.replace("url(#", f"url(#{name}-")
    colours = "|".join(style.DARK)
    return re.sub(
        rf"(?<=[: ])({colours})\b", _variable, text, flags=re.IGNORECASE
    )


def _variable(found: re.Match) -> str:
    colour = found[0].lower()
    return f"var(--c{colour[1:]}, {colour})"


def render(
    title: str, lead: str, sections: Sequence[Section], notes: Sequence[str]
) -> str:
    """The page."""
    links = "".join(
        f'<li><a href="#s{i}">{_text(section.title)}</a></li>'
        for i, section in enumerate(sections)
    )
    contents = f"<nav><ol>{links}</ol></nav>" if len(sections) > 1 else ""
    return _PAGE.format(
        title=_text(title),
        lead=_text(lead),
        light=_variables(style.DARK.keys()),
        dark=_variables(style.DARK.values()),
        contents=contents,
        notes=_notes(notes),
        body="\n".join(_section(i, s) for i, s in enumerate(sections)),
    )


def _variables(values: Sequence[str]) -> str:
    names = [f"--c{colour[1:]}" for colour in style.DARK]
    pairs = zip(names, values, strict=True)
    return " ".join(f"{name}: {value};" for name, value in pairs)


def _section(i: int, section: Section) -> str:
    tables = "\n".join(map(_table, section.tables))
    pictures = "\n".join(map(_picture, section.pictures))
    return (
        f'<section id="s{i}"><h2>{_text(section.title)}</h2>\n'
        f"<p>{_text(section.lead)}</p>\n"
        f'<p class="facts">{_text(section.facts)}</p>\n'
        f'<div class="pictures">{pictures}</div>\n{tables}</section>'
    )


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{_cell(c)}</th>' for c in table.columns)
    rows = "\n".join(
        f'<tr><th scope="row">{_cell(row[0])}</th>'
        + "".join(f"<td>{_cell(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in table.rows
    )
    caption = _text(table.caption)
    return (
        f'<p class="above">{caption}</p><div class="table" tabindex="0" '
        f'role="region" aria-label="{caption}"><table>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody></table></div>"
    )


def _cell(text: str) -> str:
    first, _, second = str(text).partition("\n")
    small = f"<small>{_text(second)}</small>" if second else ""
    return _text(first) + small


def _picture(picture: Picture) -> str:
    drawn = inline(picture.svg, picture.name)
    drawn = drawn.replace(
        "<svg", f'<svg role="img" aria-label="{_text(picture.title)}"', 1
    )
    return (
        f'<figure id="{picture.name}"><div class="drawn">{drawn}</div>'
        f"<figcaption>{_text(picture.caption)}</figcaption></figure>"
    )


def _notes(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    lines = "".join(f"<li>{_text(note)}</li>" for note in notes)
    return (
        f'<details class="notes"><summary>Left out: {len(notes)}</summary>'
        f"<ul>{lines}</ul></details>"
    )


def _text(text: str) -> str:
    return html.escape(str(text))


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
:root {{ {light} }}
@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}
* {{ box-sizing: border-box; }}
html {{ background: var(--cffffff); color: var(--c1d2126);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif;
  -webkit-text-size-adjust: 100%; }}
body {{ max-width: 76rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }}
h1 {{ font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem;
  letter-spacing: -.015em; }}
h2 {{ font-size: 1.3rem; line-height: 1.3; margin: 0 0 .4rem;
  letter-spacing: -.01em; }}
p {{ max-width: 46rem; margin: 0 0 .6rem; }}
a {{ color: var(--c0072b2); }}
header p, .facts, figcaption, .above, small {{ color: var(--c5a636d); }}
.facts, .above {{ font-size: .88rem; }}
.above {{ margin: 2.25rem 0 0; }}
section {{ margin-top: 2.5rem; padding-top: 1.5rem;
  border-top: 1px solid var(--ce2e6ea); }}
nav ol {{ padding-left: 1.2rem; }}
.notes {{ font-size: .88rem; overflow-wrap: anywhere; margin-top: 1rem; }}
.notes ul {{ padding-left: 1.2rem; margin: .4rem 0; }}
summary {{ cursor: pointer; }}
.table {{ overflow-x: auto; margin: .4rem 0 0; }}
table {{ border-collapse: collapse; font-size: .88rem; min-width: 100%;
  font-variant-numeric: tabular-nums; }}
th, td {{ padding: .4rem .9rem .4rem 0; text-align: right;
  vertical-align: top; white-space: nowrap; line-height: 1.35;
  border-bottom: 1px solid var(--ce2e6ea); }}
th:first-child {{ text-align: left; position: sticky; left: 0;
  background: var(--cffffff); }}
thead th {{ font-weight: 600; vertical-align: bottom;
  border-bottom-color: var(--c5a636d); }}
tbody th {{ font-weight: 500; }}
small {{ display: block; font-size: .8em; font-weight: 400; }}
.pictures {{ display: grid; gap: 2rem 2.5rem; margin-top: 1.5rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 30rem), 1fr)); }}
figure {{ margin: 0; }}
.drawn {{ overflow-x: auto; }}
.drawn svg {{ display: block; width: 100%; min-width: 28rem; height: auto; }}
figcaption {{ font-size: .82rem; line-height: 1.45; margin-top: .4rem; }}
@media (max-width: 40rem) {{
  body {{ padding: 1.5rem 1rem 3rem; }}
  h1 {{ font-size: 1.5rem; }}
}}
@media print {{ figure, tr {{ break-inside: avoid; }} }}
</style>
</head>
<body>
<header><h1>{title}</h1><p>{lead}</p></header>
{notes}
{contents}
<main>
{body}
</main>
</body>
</html>
"""
