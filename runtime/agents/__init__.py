"""The agents that propose scaffolds and choose levers."""
