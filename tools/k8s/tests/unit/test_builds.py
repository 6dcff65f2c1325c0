"""Which combinations are built, and how their YAML is read."""

from itertools import combinations

from shop_k8s.builds import ALWAYS, OPTIONAL, ORDER, STORES, Manifest, covering_combinations, parse


def test_each_three_choices_occur_together() -> None:
    rows = covering_combinations()
    choices = [*STORES, *OPTIONAL, *(f"no {name}" for name in OPTIONAL)]
    seen = set()
    for row in rows:
        assert len(set(row) & set(STORES)) == 1
        assert ALWAYS in row
        assert list(row) == sorted(row, key=ORDER.index)
        made = {name for name in choices if name in row or (name[:3] == "no " and name[3:] not in row)}
        seen |= set(combinations(sorted(made), 3))
    possible = {
        three
        for three in combinations(sorted(choices), 3)
        if not set(STORES) <= set(three) and not any(f"no {name}" in three for name in three)
    }
    assert possible - seen == set()
    assert len(rows) < 20


def test_what_two_builds_share_is_parsed_once() -> None:
    text = "kind: A\nmetadata: {name: x}\n---\nkind: B\nmetadata:\n  name: |\n    a\n    --- b\n"
    one, two = (parse(Manifest(name, text)) for name in ("one", "two"))
    assert [found["kind"] for found in one.objects] == ["A", "B"]
    assert one.objects[1] is two.objects[1]
