"""Confines what scaffolds run: profiles, limits over all processes, and the choice of what this host can give."""
