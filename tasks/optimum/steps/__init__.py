"""Steps that an edit can add to the scaffold."""
