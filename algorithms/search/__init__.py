"""Ways of choosing and accepting candidates. Now one: SIA's chain that keeps the best."""
