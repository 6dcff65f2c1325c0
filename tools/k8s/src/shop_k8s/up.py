"""`make k8s-up`: images, secrets and objects of the local overlay to the cluster of the current kubectl context."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from shop_cluster import go
from shop_cluster.failures import ClusterError
from shop_cluster.state import ROOT
from shop_k8s import tools
from shop_k8s.builds import IMAGES, kustomize_build, parse
from shop_k8s.model import NAMESPACE, Build
from shop_k8s.secrets import make_local_secrets

LOCAL = ROOT / "deploy" / "k8s" / "overlays" / "local"
JOBS = "app.kubernetes.io/component=job"
WAIT = "600s"
FORWARDED = {"gateway": "8000:80", "jaeger": "16686:16686", "mail": "8025:8025"}


def bring_up() -> None:
    for program, remedy in {
        "kubectl": "install kubectl, and a cluster if there is none: `kind create cluster`",
        "docker": "install Docker; it builds the images",
    }.items():
        if shutil.which(program) is None:
            raise ClusterError(f"{program} is missing", remedy=remedy)
    context = _output("kubectl", "config", "current-context")
    print(f"the cluster of kubectl's context {context}", flush=True)
    images = deliver_images(context, os.environ.get("REGISTRY", ""))
    make_local_secrets(LOCAL / "secrets")
    build = render(images)
    print("removing finished Jobs, whose templates cannot be changed", flush=True)
    _run("kubectl", "delete", "job", "--namespace", NAMESPACE, "--selector", JOBS, "--ignore-not-found")
    owners = [pod.owner for pod in build.workloads]
    # A worker of the new version must not meet the old schema.
    for step in ([found for found in build.objects if found not in owners], build.objects):
        text = yaml.safe_dump_all(step)
        _run("kubectl", "apply", "--server-side", "--force-conflicts", "--filename", "-", text=text)
        for command in waits(Build(build.name, step)):
            _run(*command)
    show(build)


def deliver_images(context: str, registry: str) -> dict[str, tuple[str, str]]:
    """Build them and bring them where the cluster's nodes find them; image → its name there and its tag."""
    named: dict[str, tuple[str, str]] = {}
    for image in IMAGES:
        service = image.removeprefix("shop-")
        build = ("--file", "deploy/docker/Dockerfile", "--build-arg", f"SERVICE={service}", "--tag", f"{image}:local")
        _run("docker", "build", *build, ".")
        # By content: a changed image is a changed pod template, so it rolls out.
        tag = _output("docker", "image", "inspect", "--format", "{{.Id}}", f"{image}:local").partition(":")[2][:12]
        name = f"{registry.rstrip('/')}/{image}" if registry else image
        named[image] = (name, tag)
        _run("docker", "tag", f"{image}:local", f"{name}:{tag}")
    references = [f"{name}:{tag}" for name, tag in named.values()]
    for command in delivery(context, registry, references):
        _run(*command)
    return named


def delivery(context: str, registry: str, references: Sequence[str]) -> list[list[str]]:
    """The commands that bring images to the nodes."""
    if registry:
        return [["docker", "push", reference] for reference in references]
    if context.startswith("kind-"):
        return [["kind", "load", "docker-image", *references, "--name", context.removeprefix("kind-")]]
    if context.startswith("k3d-"):
        return [["k3d", "image", "import", *references, "--cluster", context.removeprefix("k3d-")]]
    raise ClusterError(
        f"the nodes of {context} cannot be given images: it is neither kind nor k3d",
        remedy="REGISTRY=registry.example.com/shop make k8s-up, with a registry that they pull from",
    )


def render(images: dict[str, tuple[str, str]]) -> Build:
    """The local overlay with these images."""
    with TemporaryDirectory() as folder:
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [os.path.relpath(LOCAL, Path(folder).resolve())],
            "images": [{"name": image, "newName": name, "newTag": tag} for image, (name, tag) in images.items()],
        }
        Path(folder, "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        manifest = kustomize_build(go.build(tools.KUSTOMIZE), "local", Path(folder))
    if manifest.text is None:
        raise ClusterError(f"the local overlay does not build: {manifest.error}", remedy="make k8s-check")
    return parse(manifest)


def waits(build: Build) -> list[list[str]]:
    """The commands that return when everything runs and the Jobs are done."""
    head, bound = ["kubectl", "--namespace", NAMESPACE], f"--timeout={WAIT}"
    servers = build.of("StatefulSet", "Deployment")
    jobs = [f"job/{found['metadata']['name']}" for found in build.of("Job")]
    return [
        *([*head, "rollout", "status", f"{s['kind'].lower()}/{s['metadata']['name']}", bound] for s in servers),
        *([*head, "wait", "--for=condition=Complete", job, bound] for job in jobs),
    ]


def show(build: Build) -> None:
    print("\nIt runs. Each of these makes a page of it yours, as long as the command runs:\n")
    for name, ports in FORWARDED.items():
        if build.find("Service", name):
            local = ports.partition(":")[0]
            print(
                f"  kubectl --namespace {NAMESPACE} port-forward service/{name} {ports}    # http://127.0.0.1:{local}"
            )
    print(f"\nThe administrator's password: {LOCAL / 'secrets' / 'users_admin__password'}")


def _run(*command: str, text: str | None = None) -> None:
    print(f"$ {' '.join(command)}", flush=True)
    done = subprocess.run(command, input=text, text=True, cwd=ROOT, check=False)
    if done.returncode:
        raise ClusterError(
            f"{' '.join(command[:3])} ended with {done.returncode}",
            remedy=f"see the lines above; `kubectl get pods --namespace {NAMESPACE}` shows who waits",
        )


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        raise ClusterError(f"{' '.join(command[:3])} failed: {done.stderr.strip()}", remedy="is there a cluster?")
    return done.stdout.strip()
