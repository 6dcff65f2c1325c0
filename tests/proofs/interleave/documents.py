"""A stand-in for a MongoDB collection: each operation atomic, with the operators that the platform's stores use.

An operator it does not know is an error, so it cannot silently differ; a test compares it with the server's answers.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import bson
from bson.codec_options import CodecOptions
from pymongo.errors import AutoReconnect, DuplicateKeyError

Document = dict[str, Any]


class Wire(Protocol):
    """How a server is asked: by a `Simulation`, or at once."""

    async def ask(self, effect: Callable[[], Any], error: type[Exception]) -> Any: ...


class AtOnce:
    async def ask(self, effect: Callable[[], Any], error: type[Exception]) -> Any:
        return effect()


_OPTIONS: CodecOptions[Document] = CodecOptions(tz_aware=True)
_MISSING = object()


class Documents:
    """The documents of one collection, by id; kept as BSON, so that what comes back is what a server would give."""

    def __init__(self) -> None:
        self._kept: dict[Any, tuple[Document, bytes]] = {}

    def all(self) -> list[Document]:
        """To look at, not to change."""
        return [document for document, _ in self._kept.values()]

    def insert(self, document: Document) -> None:
        if document["_id"] in self._kept:
            raise DuplicateKeyError(f"E11000 duplicate key {document['_id']}")
        self._keep(document)

    def find(self, query: Document, sort: Sequence[tuple[str, int]] = (), limit: int = 0) -> list[Document]:
        found = [document for document in self.all() if matches(document, query)]
        for name, direction in reversed(sort):
            found.sort(key=lambda document: document[name], reverse=direction < 0)
        chosen = found[:limit] if limit else found
        return [bson.decode(self._kept[document["_id"]][1], _OPTIONS) for document in chosen]

    def update(self, query: Document, change: Document, *, upsert: bool = False, many: bool = False) -> list[Document]:
        """The documents as they were before."""
        found = self.find(query)[: None if many else 1]
        for document in found:
            changed = dict(document)
            _apply(changed, change)
            self._keep(changed)
        if not found and upsert:
            made = {name: value for name, value in query.items() if not isinstance(value, Mapping)}
            _apply(made, change)
            self.insert(made)
        return found

    def _keep(self, document: Document) -> None:
        raw = bson.encode(document)
        self._kept[document["_id"]] = bson.decode(raw, _OPTIONS), raw


def matches(document: Document, query: Document) -> bool:
    return all(
        any(matches(document, branch) for branch in condition) if name == "$or" else _holds(document, name, condition)
        for name, condition in query.items()
    )


_TESTS: dict[str, Callable[[Any, Any], bool]] = {
    "$in": lambda value, wanted: value in wanted,
    "$lt": lambda value, bound: value is not _MISSING and value < bound,
    "$lte": lambda value, bound: value is not _MISSING and value <= bound,
    "$exists": lambda value, wanted: (value is not _MISSING) == wanted,
    "$size": lambda value, wanted: isinstance(value, list) and len(value) == wanted,
}


def _holds(document: Document, name: str, condition: Any) -> bool:
    value = document.get(name, _MISSING)
    if isinstance(condition, Mapping):
        return all(_TESTS[operator](value, operand) for operator, operand in condition.items())
    return bool(value == condition)


def _apply(document: Document, change: Document) -> None:
    for operator, fields in change.items():
        for name, operand in fields.items():
            match operator:
                case "$set":
                    document[name] = operand
                case "$unset":
                    document.pop(name, None)
                case "$inc":
                    document[name] = document.get(name, 0) + operand
                case "$push":
                    document[name] = _pushed(document.get(name, []), operand)
                case "$pull":
                    document[name] = [entry for entry in document.get(name, []) if not matches(entry, operand)]
                case _:
                    raise NotImplementedError(operator)


def _pushed(values: list[Any], operand: Any) -> list[Any]:
    if not (isinstance(operand, Mapping) and "$each" in operand):
        return [*values, operand]
    if not operand.keys() <= {"$each", "$slice"} or operand.get("$slice", -1) >= 0:
        raise NotImplementedError(operand)
    return [*values, *operand["$each"]][operand.get("$slice", -(2**31)) :]


class Database:
    """Collections of documents that survive every process."""

    def __init__(self, wire: Wire, changed: Callable[[], None] = lambda: None) -> None:
        self._wire = wire
        self._changed = changed
        self.documents: dict[str, Documents] = {}

    def __getitem__(self, name: str) -> "Collection":
        return Collection(self._wire, self.documents.setdefault(name, Documents()), self._changed)


class Collection:
    """What the stores use of motor's; the server is asked over a wire."""

    def __init__(self, wire: Wire, documents: Documents, changed: Callable[[], None]) -> None:
        self._wire = wire
        self._documents = documents
        self._changed = changed

    async def insert_one(self, document: Document) -> None:
        await self._write(lambda: self._documents.insert(document))

    async def find_one(self, query: Document, projection: Document | None = None) -> Document | None:
        found = await self.find(query, projection).to_list(1)
        return found[0] if found else None

    def find(self, query: Document, projection: Document | None = None) -> "Cursor":
        return Cursor(self._wire, self._documents, query)

    async def find_one_and_update(
        self, query: Document, change: Document, *, projection: Document | None = None
    ) -> Document | None:
        found = await self._write(lambda: self._documents.update(query, change))
        return found[0] if found else None

    async def update_one(self, query: Document, change: Document, *, upsert: bool = False) -> None:
        await self._write(lambda: self._documents.update(query, change, upsert=upsert))

    async def update_many(self, query: Document, change: Document) -> None:
        await self._write(lambda: self._documents.update(query, change, many=True))

    async def _write(self, effect: Callable[[], Any]) -> Any:
        def write() -> Any:
            result = effect()
            self._changed()
            return result

        return await self._wire.ask(write, AutoReconnect)


class Cursor:
    def __init__(self, wire: Wire, documents: Documents, query: Document) -> None:
        self._wire = wire
        self._documents = documents
        self._query = query
        self._sort: list[tuple[str, int]] = []
        self._limit = 0

    def sort(self, by: str | list[tuple[str, int]], direction: int = 1) -> "Cursor":
        self._sort = [(by, direction)] if isinstance(by, str) else by
        return self

    def limit(self, limit: int) -> "Cursor":
        self._limit = limit
        return self

    async def to_list(self, length: int) -> list[Document]:
        found: list[Document] = await self._wire.ask(
            lambda: self._documents.find(self._query, self._sort, self._limit or length), AutoReconnect
        )
        return found
