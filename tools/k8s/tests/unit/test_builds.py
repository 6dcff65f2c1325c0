"""Which combinations are built, and how their YAML is read."""

from itertools import combinations, product

from shop_k8s.builds import ALWAYS, OPTIONAL, ORDER, STORES, TRACING, Manifest, covering_combinations, parse


def test_each_three_choices_occur_together() -> None:
    rows = covering_combinations()
    choices = [STORES, TRACING, *((name, "") for name in OPTIONAL)]
    seen = set()
    for row in rows:
        assert ALWAYS in row
        assert list(row) == sorted(row, key=ORDER.index)
        made = [next((name for name in choice if name in row), "") for choice in choices]
        assert len([name for name in made if name]) == len(row) - 1
        seen |= set(combinations(enumerate(made), 3))
    numbered = [[(number, name) for name in choice] for number, choice in enumerate(choices)]
    possible = {three for some in combinations(numbered, 3) for three in product(*some)}
    assert possible - seen == set()
    assert len(rows) < 25


def test_what_two_builds_share_is_parsed_once() -> None:
    text = "kind: A\nmetadata: {name: x}\n---\nkind: B\nmetadata:\n  name: |\n    a\n    --- b\n"
    one, two = (parse(Manifest(name, text)) for name in ("one", "two"))
    assert [found["kind"] for found in one.objects] == ["A", "B"]
    assert one.objects[1] is two.objects[1]
