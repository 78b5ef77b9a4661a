"""Black-box optimisation: find a low value of a function that is not shown, within a budget of evaluations."""
