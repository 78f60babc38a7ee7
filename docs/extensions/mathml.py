"""Formulas as MathML, which browsers know: no script, and no network when reading.

By the converter of Docutils. It knows nearly all commands of AMS LaTeX; one that it does
not know is a warning that names the formula.
"""

import re

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

LOG = logging.getLogger(__name__)
# What the converter lacks, and what stands for it.
SYNONYMS = [
    (re.compile(r"\\dots(?![a-z])"), r"\\ldots"),
    (re.compile(r"\\[bB]igg?[lrm]?(?![a-z])"), ""),
    (re.compile(r"\\textstyle(?![a-z])"), ""),
    (re.compile(r"\\texttt(?![a-z])"), r"\\mathtt"),
]
# It sets the index of a letter with an accent below the letter.
ACCENTED = re.compile(
    r"<munderover>\s*(<mi[^>]*>[^<]*</mi>)(.*?)(<mo[^>]*>[ˆˉ˙˜¨]</mo>)\s*</munderover>",
    re.DOTALL,
)
INDEXED = r'<msub><mover accent="true">\1\3</mover>\2</msub>'


def visit_inline(writer, node):
    """Write a formula in the text."""
    writer.body.append(_convert(node, display=False))
    raise nodes.SkipNode


def visit_block(writer, node):
    """Write a formula on lines of its own."""
    writer.body.append(f'<div class="math">{_convert(node, display=True)}</div>\n')
    raise nodes.SkipNode


def _convert(node, display):
    tex = node.astext().strip()
    for pattern, synonym in SYNONYMS:
        tex = pattern.sub(synonym, tex)
    try:
        return ACCENTED.sub(INDEXED, tex2mathml(tex, as_block=display))
    # Some mistakes are errors of its own, and others those of the code that met them.
    except (SyntaxError, AttributeError, IndexError, ValueError) as error:
        LOG.warning("formula %r: %s", tex, error, location=node)
        return f"<code>{tex}</code>"


def setup(app):
    """Register the renderer."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    app.config.html_math_renderer = "mathml"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
