"""`docs/k8s-policies.md`: what each policy asserts, made of the policies themselves."""

import shop_k8s.policies
from shop_cluster.state import ROOT
from shop_k8s.policy import POLICIES

FILE = ROOT / "docs" / "k8s-policies.md"
_HEAD = """# What `make k8s-check` asserts of every build

Made by `make k8s-policies` of the sentences beside the policies in `tools/k8s/src/shop_k8s/policies`; a test fails
when the two differ. Each is shown to fail on a manifest broken in one place (`tools/k8s/tests/integration`).
"""


def render() -> str:
    parts = [_HEAD]
    for chapter in shop_k8s.policies.__all__:
        rows = [policy for policy in POLICIES.values() if policy.chapter == chapter]
        parts.append(f"\n## {chapter.capitalize()}\n\n| policy | asserts |\n|---|---|\n")
        parts += [f"| `{policy.name}` | {policy.asserts} |\n" for policy in rows]
    return "".join(parts)
