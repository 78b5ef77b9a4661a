"""What a run does next: the decider as pure functions, and the controller that runs it on the log."""
