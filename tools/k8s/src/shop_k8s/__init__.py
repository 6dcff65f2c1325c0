"""Kubernetes: what `deploy/k8s` builds, checked, and brought to a cluster."""
