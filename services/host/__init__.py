"""A project directory and the processes in it: supervisor, settings, and where recorded runs are read from."""
