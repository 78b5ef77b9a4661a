"""Columns of Python values as Arrow, which DuckDB reads where they lie: appending rows would copy each value twice.

nanoarrow makes them, by the Arrow PyCapsule interface; pyarrow is not needed.
"""

from array import array
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

import nanoarrow
from nanoarrow.c_array import CArray


class Columns:
    """Integers of 64 bits and texts in UTF-8, by column, all of one length: what DuckDB's `register` takes."""

    def __init__(self, integers: Mapping[str, Iterable[int]], texts: Mapping[str, Sequence[bytes]]) -> None:
        arrays = {name: _integers(values) for name, values in integers.items()}
        arrays |= {name: _texts(values) for name, values in texts.items()}
        schema = nanoarrow.struct({name: column.schema for name, column in arrays.items()})
        length = max(column.length for column in arrays.values())
        self._array = nanoarrow.c_array_from_buffers(schema, length, [None], children=list(arrays.values()))

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """As the interface has it: DuckDB calls it once a statement."""
        return nanoarrow.c_array_stream(self._array).__arrow_c_stream__(requested_schema)


def _integers(values: Iterable[int]) -> CArray:
    buffer = array("q", values)
    return nanoarrow.c_array_from_buffers(nanoarrow.int64(), len(buffer), [None, buffer])


def _texts(values: Sequence[bytes]) -> CArray:
    ends = array("q", accumulate(map(len, values), initial=0))
    return nanoarrow.c_array_from_buffers(nanoarrow.large_string(), len(values), [None, ends, b"".join(values)])
