"""Brokers, triggers, channels, flows, sources and sinks."""
