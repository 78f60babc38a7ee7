"""Docstrings are Markdown with formulas between dollars; autodoc reads reStructuredText."""

import re

MARKUP = re.compile(
    r"(?P<ticks>`+)(?P<code>.+?)(?P=ticks)"
    r"|^(?P<indent> *)\$\$(?P<block>.+?)\$\$"
    r"|\$(?P<formula>[^$]+)\$",
    re.DOTALL | re.MULTILINE,
)


def translate(text: str) -> str:
    """The same text in reStructuredText: literals and formulas are all that differs."""
    return MARKUP.sub(_translate, text)


def _translate(match):
    if match["block"]:
        indent = match["indent"]
        formula = " ".join(match["block"].split())
        return f"\n{indent}.. math::\n\n{indent}   {formula}\n\n{indent}"
    if match["code"]:
        inline = f"``{' '.join(match['code'].split())}``"
    else:
        inline = f":math:`{' '.join(match['formula'].split())}`"
    # Markup begins and ends at a word, unless told otherwise.
    text, start, end = match.string, match.start(), match.end()
    before = r"\ " if start and text[start - 1] not in " \n([-/'\"" else ""
    after = r"\ " if end < len(text) and text[end] not in " \n.,:;!?)]-/'\"" else ""
    return before + inline + after


def process(app, what, name, obj, options, lines):
    """Before Napoleon, which reads the sections and leaves their text as it is."""
    lines[:] = translate("\n".join(lines)).split("\n")


def setup(app):
    """Register it."""
    app.connect("autodoc-process-docstring", process, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
