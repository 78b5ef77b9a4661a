"""The nats-server that the log stands on: its program, accounts, streams, files and process."""
