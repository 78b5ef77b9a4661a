"""TriMul: write a kernel for the triangular multiplicative update, and have it checked and timed."""
