"""A Kubernetes API server small enough to start in a second, real enough for kubectl."""
