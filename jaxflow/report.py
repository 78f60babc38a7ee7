"""Stored results as figures in a directory, or as one page of HTML."""

import base64
import html
import io
import os
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from .stored import Stored
from .sweeps.owned import building, check_free, replace, stamp
from .sweeps.paths import local_path

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_STAMP = "provenance.json"
_GENERATOR = '<meta name="generator" content="jaxflow"/>'


def draw(found: Stored, out: str | os.PathLike[str], overwrite: bool) -> list[str]:
    """Write all figures and where they come from, whole or not at all; their names.

    Raises:
        ValueError: If `out` exists, unless it may be overwritten and holds figures.
    """
    out = local_path(out)
    check_free(out, overwrite, marker=_STAMP)
    figures = {f"{title}.png": figure for title, figure in found.figures().items()}
    with building(out) as part:
        for name, figure in figures.items():
            figure.savefig(part / name, dpi=150)
        stamp(part / _STAMP, found.origin(), figures)
        replace(part, out, marker=_STAMP)
    return list(figures)


def write(found: Stored, out: str | os.PathLike[str], overwrite: bool):
    """Write the report, whole or not at all.

    Raises:
        ValueError: If `out` exists, unless it may be overwritten and is a report.
    """
    out = local_path(out)
    if out.exists():
        if not (out.is_file() and _is_report(out)):
            raise ValueError(
                f"{out} must be free, but is something that is not a report. Move it away, "
                "or choose another path."
            )
        if not overwrite:
            raise ValueError(
                f"{out} must be free, but is another report. Choose another path, or pass "
                "`--overwrite`."
            )
    text = page(found)
    with building(out) as part:
        (part / "report.html").write_text(text, encoding="utf-8")
        os.replace(part / "report.html", out)


def _is_report(out: Path) -> bool:
    """Whether a file begins as reports do."""
    with out.open(encoding="utf-8", errors="replace") as lines:
        return lines.read(1000).startswith(
            _PAGE.template.split("$generator")[0] + _GENERATOR
        )


def page(found: Stored) -> str:
    """One page of HTML, which is XML too, and needs no other file."""
    figures = "".join(_figure(*each) for each in found.figures().items())
    return _PAGE.substitute(
        generator=_GENERATOR,
        style=_STYLE,
        name=html.escape(found.name),
        headline=html.escape(found.headline()).replace("\n", "<br/>\n"),
        summary=_table(brief(found.summary()), "What was found"),
        figures=figures,
        axes=_table(found.axes(), "Axes of the data"),
        provenance=_table(found.provenance(), "Where it comes from"),
    )


def brief(rows: "pd.DataFrame") -> "pd.DataFrame":
    """A table as it is shown: shares that are all zero make it wider, and no wiser."""
    empty = [name for name in rows if set(rows[name]) == {"0%"}]
    return rows.drop(columns=empty)


def print_table(rows: "pd.DataFrame"):
    """Print a table to the terminal, however narrow that is."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    rows = brief(rows)
    table = Table(*rows.columns, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for row in rows.itertuples(index=False):
        table.add_row(*map(str, row))
    console = Console()
    console.width = max(console.width, 160)  # Better wrapped by the terminal than cut.
    console.print(table)


def _figure(name: str, figure: "Figure") -> str:
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110)
    data = base64.b64encode(png.getvalue()).decode()
    name, alt = html.escape(name), html.escape(_in_words(figure))
    return (
        f'<figure>\n<img alt="{alt}" src="data:image/png;base64,{data}"/>\n'
        f"<figcaption>{name}</figcaption>\n</figure>\n"
    )


def _in_words(figure: "Figure") -> str:
    """What a figure shows, by the names of its axes."""
    panels = [
        f"{axis.get_ylabel() or axis.get_title()} against {axis.get_xlabel()}"
        for axis in figure.axes
    ]
    words = [figure.get_suptitle(), *dict.fromkeys(panels)]
    return ". ".join(" ".join(text.replace("$", "").split()) for text in words if text)


def _table(rows: "pd.DataFrame", caption: str) -> str:
    line = lambda tag, cells: "".join(
        f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells
    )
    body = "\n".join(f"<tr>{line('td', row)}</tr>" for row in rows.itertuples(index=False))
    return (
        f"<div><table>\n<caption>{caption}</caption>\n"
        f"<thead><tr>{line('th', rows.columns)}</tr></thead>\n"
        f"<tbody>\n{body}\n</tbody>\n</table></div>\n"
    )


_STYLE = """
body { font: 15px/1.5 sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
figure { margin: 2rem 0; break-inside: avoid; }
img { width: 100%; height: auto; }
figcaption, caption { color: #555; text-align: left; }
div { overflow-x: auto; margin: 2rem 0; }
table { border-collapse: collapse; font-size: 13px; }
th, td { text-align: left; padding: 0.2rem 0.8rem 0.2rem 0; vertical-align: top; }
th { border-bottom: 1px solid #555; }
@media print {
  body { margin: 0; max-width: none; font-size: 10pt; }
  div { overflow: visible; }
  table { font-size: 7pt; }
  th, td { padding-right: 0.4rem; overflow-wrap: anywhere; }
  tr { break-inside: avoid; }
}
"""
_PAGE = Template("""<!DOCTYPE html>
<html lang="en" xmlns="http://www.w3.org/1999/xhtml">
<head>
<meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
$generator
<title>$name</title>
<style>$style</style>
</head>
<body>
<h1>$name</h1>
<p>$headline</p>
$summary$figures$axes$provenance</body>
</html>
""")
