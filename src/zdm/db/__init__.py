"""Sessions, lock-safe DDL, introspection, expression checking, probes: everything that talks to a server."""
