"""The shapes that kernels are checked and timed on: the leaderboard's, a CPU's, and those that no kernel has seen."""

from tasks.trimul.sandboxed.workload import Workload

TESTS = (
    Workload(32, 1, 128),
    Workload(32, 1, 128, "binary"),
    Workload(64, 2, 256),
    Workload(64, 2, 256, "binary"),
    Workload(128, 1, 768),
    Workload(256, 1, 128),
    Workload(256, 1, 128, "binary"),
    Workload(768, 2, 128),
    Workload(1024, 1, 384, "binary"),
    Workload(1024, 1, 768),
    Workload(1024, 1, 768, "binary"),
    Workload(32, 1, 128, "none", "cauchy"),
    Workload(64, 2, 256, "none", "cauchy"),
    Workload(128, 1, 768, "none", "cauchy"),
    Workload(256, 1, 128, "none", "cauchy"),
    Workload(768, 2, 128, "none", "cauchy"),
    Workload(1024, 1, 384, "binary", "cauchy"),
    Workload(1024, 1, 768, "binary", "cauchy"),
)
"""The leaderboard's 18 tests. Its seeds are left out: they fix neither its weights nor its Cauchy inputs."""
BENCHMARKS = (
    Workload(256, 2, 128),
    Workload(768, 1, 128, "none", "cauchy"),
    Workload(256, 2, 384, "binary"),
    Workload(512, 1, 128),
    Workload(1024, 1, 128, "none", "cauchy"),
    Workload(768, 1, 384, "binary"),
    Workload(1024, 1, 384),
)
"""The leaderboard's 7 benchmarks."""
UNSEEN = (
    Workload(96, 1, 128, "fractional"),
    Workload(200, 1, 192, "empty_rows"),
    Workload(333, 1, 128, "binary", "lognormal"),
    Workload(96, 3, 128, "none", "constant_rows"),
    Workload(200, 1, 128, "fractional", "cauchy"),
    Workload(96, 3, 192, "empty_rows", "lognormal"),
)
"""What gold asks on a CUDA host: sides, widths, batches, masks and distributions that no test and no benchmark has."""

SMALL = tuple(
    Workload(n, 1, dim, mask, "cauchy" if n == 32 else "normal")
    for n in (24, 32, 48)
    for dim in (128, 256)
    for mask in ("none", "binary")
)
"""What kernels are timed on by a CPU: 12 shapes, of which a seed makes train, dev and test."""
SMALL_UNSEEN = (
    Workload(96, 1, 128, "fractional"),
    Workload(20, 3, 192, "binary", "lognormal"),
    Workload(33, 1, 128, "empty_rows"),
    Workload(48, 1, 128, "none", "constant_rows"),
    Workload(40, 1, 192, "binary", "cauchy"),
)
"""What gold asks on a CPU."""
