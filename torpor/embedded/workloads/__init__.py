"""What kube-controller-manager, the scheduler and kube-proxy do in a cluster, as far as Serving needs it."""
