"""Fakes that are tested against the real thing: clock, Kubernetes client, upstream, raw sockets."""
