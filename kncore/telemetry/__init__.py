"""Logs, metrics and health of every process."""
