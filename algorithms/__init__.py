"""How candidates are chosen and how weights are trained; neither knows a task, a service or the log."""
