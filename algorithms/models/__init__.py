"""The language models that algorithms train: one of our own, any of transformers under LoRA, their samplers, kernels
and cache.
"""
