"""The Go programs that the check runs: pinned, built once into the cache."""

from typing import Final

from shop_cluster.go import GoProgram

KUSTOMIZE: Final = GoProgram("kustomize", "sigs.k8s.io/kustomize/kustomize/v5@v5.8.1")
KUBECONFORM: Final = GoProgram("kubeconform", "github.com/yannh/kubeconform@v0.8.0", "./cmd/kubeconform")
KUBE_SCORE: Final = GoProgram("kube-score", "github.com/zegl/kube-score@v1.20.0", "./cmd/kube-score")
