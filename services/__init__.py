"""The processes: one module a service, the supervisor that keeps them up, and the command line."""
