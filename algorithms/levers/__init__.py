"""When to pull which lever: from what the trajectories show to the scaffold, the weights, or the end of the run."""
