"""Reading a store of ours: what is missing or damaged raises, and is no fill value."""

import re
from functools import cached_property

import numpy as np
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import LocalStore

from .seals import CHUNKS, check, sums_up

_CHUNK = re.compile(r"(.+)/c((?:/\d+)*)")


class SealedStore(LocalStore):
    """A store that reads only chunks that are as they were written.

    A chunk that is missing though it was written is no chunk of fill values.
    """

    async def get(self, key, prototype=None, byte_range=None):
        return self._checked(key, await super().get(key, prototype, byte_range))

    def get_sync(self, key, **options):
        return self._checked(key, super().get_sync(key, **options))

    def _checked(self, key, found):
        match = _CHUNK.fullmatch(key)
        if match is None or match[1] not in self._mark["digests"]:
            return found
        if found is None and self._is_pending(match[1], match[2]):
            return None
        if found is None:
            # Or it was done in between, by who writes it.
            if not (self.root / key).is_file():
                raise self._lost(f"{key} is missing")
            found = default_buffer_prototype().buffer.from_bytes(
                (self.root / key).read_bytes()
            )
        if not sums_up(found.to_bytes()):
            raise self._lost(f"{key} is damaged")
        return found

    def _lost(self, what: str) -> ValueError:
        again = (
            "The same call of `sweep` computes it" if "sweep" in self._mark else "Make it"
        )
        return ValueError(f"{self.root} cannot be read: {what}. {again} again.")

    @cached_property
    def _mark(self):
        return check(self.root)

    def _is_pending(self, name: str, place: str) -> bool:
        """Whether a chunk need not be there yet."""
        sweep = self._mark.get("sweep")
        indices = [int(index) for index in place.split("/")[1:]]
        if sweep is None or name == f"{CHUNKS}/done":
            return sweep is not None
        if name == f"{CHUNKS}/seconds":
            (number,) = indices
        elif name in sweep["variables"]:
            counts, loops = sweep["counts"], 1 + sweep["loops"]
            turn = lambda all: (*all[1:loops], all[0], *all[loops : len(counts)])
            number = np.ravel_multi_index(turn(indices), turn(counts))
        else:
            return False
        return not (self.root / CHUNKS / "done" / "c" / str(number)).exists()
