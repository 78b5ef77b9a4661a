"""Three generators of reasoning-gym: sums, greatest common divisors, and sorting."""
