"""Seven objects that an API server has to refuse: proof that the dry run looks at what it is sent."""

from dataclasses import dataclass

from shop_k8s.model import Build, Object, dig


@dataclass(frozen=True, slots=True)
class BadObject:
    """`refusal` is a part of what the server says."""

    what: str
    refusal: str
    found: Object


def bad_objects(objects: list[Object]) -> list[BadObject]:
    """Made of the production build's objects, which are changed."""
    build = Build("bad", objects)

    def take(kind: str, name: str) -> Object:
        found = build.find(kind, name)
        assert found is not None, f"{kind}/{name} is not in the production build"  # noqa: S101 - a mistake of ours
        objects.remove(found)
        return found

    root = take("Deployment", "gateway")
    root_pod: Object = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "root", "namespace": "shop"}}
    root_pod["spec"] = dig(root, "spec", "template", "spec")
    root_pod["spec"]["securityContext"] = {"runAsUser": 0}
    typo = take("Deployment", "users")
    typo["spec"]["replica"] = 2
    stranger = take("Deployment", "orders")
    stranger["spec"]["selector"] = {"matchLabels": {"app.kubernetes.io/name": "somebody-else"}}
    unmounted = take("Deployment", "users-worker")
    unmounted["spec"]["template"]["spec"]["volumes"] = []
    shrinking = take("HorizontalPodAutoscaler", "gateway")
    shrinking["spec"] |= {"minReplicas": 9, "maxReplicas": 3}
    torn = take("PodDisruptionBudget", "gateway")
    torn["spec"] |= {"minAvailable": 1, "maxUnavailable": 1}
    restless = take("Job", "users-migrate")
    restless["spec"]["template"]["spec"]["restartPolicy"] = "Always"
    return [
        BadObject("runs as root", "violates PodSecurity", root_pod),
        BadObject("has an unknown field", "unknown field", typo),
        BadObject("does not select its own pods", "selector", stranger),
        BadObject("mounts a volume it does not have", "volumeMounts", unmounted),
        BadObject("has a minimum above its maximum", "maxReplicas", shrinking),
        BadObject("says two things at once", "cannot be both set", torn),
        BadObject("restarts for ever", "restartPolicy", restless),
    ]
