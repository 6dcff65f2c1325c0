"""The table of policies is what the policies say."""

from shop_k8s.policy import POLICIES
from shop_k8s.table import FILE, render


def test_the_table_is_up_to_date() -> None:
    assert FILE.read_text() == render(), "make k8s-policies"


def test_each_policy_is_in_it_with_one_sentence() -> None:
    table = render()
    for policy in POLICIES.values():
        assert table.count(f"| `{policy.name}` |") == 1
        assert policy.asserts.endswith(".")
        assert "|" not in policy.asserts
