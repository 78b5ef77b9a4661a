"""GPQA: 198 questions of graduate-level science with four options each."""
