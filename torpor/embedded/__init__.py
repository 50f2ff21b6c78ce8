"""The platform on one machine: API server, workload controllers, node."""
