"""Stats in, windows, decision, scale API: the Knative pod autoscaler and its stat server."""
