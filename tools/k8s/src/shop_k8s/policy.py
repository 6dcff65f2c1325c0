"""Policies: each a small function that looks at a build, with the one sentence it asserts."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from shop_cluster.failures import ClusterError
from shop_k8s.model import Build

Complaints = Iterator[tuple[str, str]]
"""Which object, and what is wrong and what to do, in one line."""
Examine = Callable[[Build], Complaints]


@dataclass(frozen=True, slots=True)
class Policy:
    name: str
    chapter: str
    asserts: str
    examine: Examine


@dataclass(frozen=True, slots=True)
class Failure:
    """`builds` are the combinations it was found in."""

    builds: tuple[str, ...]
    where: str
    policy: str
    says: str

    def __str__(self) -> str:
        more = f" and {len(self.builds) - 1} more" if len(self.builds) > 1 else ""
        return f"{self.builds[0]}{more}: {self.where}: {self.policy}: {self.says}"


def require_none(failures: list[Failure], where: str, remedy: str) -> None:
    """ClusterError with a line for each."""
    if failures:
        lines = [str(failure) for failure in failures]
        raise ClusterError(f"{len(failures)} failures {where}", remedy=remedy, log_lines=lines)


POLICIES: dict[str, Policy] = {}


def policy(asserts: str) -> Callable[[Examine], Examine]:
    """Register a function under its own name, with `-` for `_`."""

    def register(examine: Examine) -> Examine:
        name = examine.__name__.replace("_", "-")
        POLICIES[name] = Policy(name, examine.__module__.rpartition(".")[2], asserts, examine)
        return examine

    return register


def examine(builds: Iterable[Build]) -> list[Failure]:
    """What every policy says of every build; the same complaint of several builds once."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for build in builds:
        for rule in POLICIES.values():
            for where, says in rule.examine(build):
                names = found.setdefault((where, rule.name, says), [])
                if build.name not in names:
                    names.append(build.name)
    return [Failure(tuple(names), *what) for what, names in found.items()]
