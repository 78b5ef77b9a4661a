"""Steps that the catalogue adds to the scaffold."""
