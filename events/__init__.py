"""What can be said on the log: the facts, how they are named, addressed and written as bytes."""
