"""Kernels of our own that need no agent: each file is what a candidate may answer."""
