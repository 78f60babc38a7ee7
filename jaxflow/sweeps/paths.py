"""What a path means, decided in one place for all that read or write files."""

import os
import re
from pathlib import Path

# Two letters or more: one is a drive of Windows. `Path` makes one slash of two. Chains of
# fsspec end in a URL; `::` alone is a name like any other.
_URL = re.compile(r"([a-zA-Z0-9+.-]+::)*[a-zA-Z][a-zA-Z0-9+.-]+:/")


def local_path(path: str | os.PathLike[str]) -> Path:
    """A path on this machine: `~` is the home directory, and all else is taken literally.

    Raises:
        TypeError: If it is not a path.
        ValueError: If it is a URL, or has no home directory.
    """
    text = os.fspath(path)
    if not isinstance(text, str):
        raise TypeError(f"A path must be text or a `pathlib.Path`, but is {text!r}.")
    if _URL.match(text):
        raise ValueError(
            f"{text} must be a path on this machine, but is a URL. Copy the files here; or "
            f"write './{text}' if a directory has that name."
        )
    if "\0" in text:
        raise ValueError(f"{text!r} must be a path, but holds a null character.")
    try:
        found = Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{text} must be a path, but {error}") from error
    # Directories on the way up need not exist; and what is returned means the same again.
    return found.resolve() if ".." in found.parts or _URL.match(str(found)) else found
