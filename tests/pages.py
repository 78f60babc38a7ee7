"""Pages of Markdown: their Python is run, and shows what it is said to show."""

import re
from pathlib import Path

import jax
import numpy as np

BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
RESULT = re.compile(
    r"^(?P<expression>\S.*?)  # (?P<value>-?\d+(\.\d+)?(e-?\d+)?|True|False|<.*>)$",
    re.MULTILINE,
)


def run_page(path: Path) -> tuple[dict, int]:
    """Run the blocks of a page, one after the other, in one namespace.

    As a user has it: without the strictness of the tests. A comment behind an expression
    is its value, a number to the digits that it has.

    Returns:
        The names that are left, and how many values were compared.
    """
    text, names, count = path.read_text(), {}, 0
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for block in BLOCK.finditer(text):
            # So that a traceback has the lines of the page.
            above = "\n" * text[: block.start(1)].count("\n")
            exec(compile(above + block[1], str(path), "exec"), names)
            for shown in RESULT.finditer(block[1]):
                value = eval(shown["expression"], names)
                assert _as_shown(value, shown["value"]) == shown["value"], shown[0]
                count += 1
    return names, count


def _as_shown(value, text):
    if not text[-1].isdigit():
        return repr(value if text.startswith("<") else bool(value))
    digits = len(text.partition("e")[0].partition(".")[2])
    return f"{float(np.asarray(value)):.{digits}{'e' if 'e' in text else 'f'}}"
