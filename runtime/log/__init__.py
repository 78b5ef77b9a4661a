"""The append-only log: its port, the log in memory and on NATS JetStream, and how recorded events are found on it."""
