"""LawBench: name the charge of a Chinese criminal case, one of 191."""
