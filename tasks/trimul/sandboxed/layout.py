"""Where inputs and output of a workload lie in the buffer that the harness and its runners share."""

from math import prod

import numpy as np
from workload import Workload, kinds, shapes

ALIGNED = 256


def offsets(workload: Workload) -> dict[str, int]:
    """The first byte of each input by name, of the output as `out`, and of what is behind it as `end`."""
    places, at, kind = {}, 0, kinds(workload)
    for name, shape in shapes(workload).items():
        places[name] = at
        at += -(-prod(shape) * np.dtype(kind[name]).itemsize // ALIGNED) * ALIGNED
    places["out"] = at
    places["end"] = at + prod(workload.output_shape) * 4
    return places
