"""All policies; importing this registers them."""

from shop_k8s.policies import configuration, network, objects, pods, references, rollout, scaling

__all__ = ["configuration", "network", "objects", "pods", "references", "rollout", "scaling"]
