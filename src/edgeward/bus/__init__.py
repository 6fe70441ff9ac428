"""NATS: the embedded server, connections, permissions, subjects."""
