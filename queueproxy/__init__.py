"""The sidecar in every pod: concurrency limit and queue, timeouts, probing, draining, stats."""
