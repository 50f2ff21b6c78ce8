"""Pods as local processes: what kubelet, a container runtime and kube-proxy do in a cluster."""
