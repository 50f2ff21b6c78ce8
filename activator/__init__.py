"""Ingress and activator in one proxy: routes, buffers while a revision wakes, picks a pod, reports stats."""
