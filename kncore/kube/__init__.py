"""Talking to a Kubernetes API server: client, informer, workqueue, reconcile loop."""
