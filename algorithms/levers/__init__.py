"""The rules that choose a run's next lever: change the scaffold, train the weights, or stop."""
