"""What is known of users from their events: whether they are active, as of which version."""

from typing import Final

from pymongo.errors import DuplicateKeyError

from shop_common.mongo import Database
from shop_orders.models import User

COLLECTION: Final = "users"


class UserReplica:
    """One small document per user heard of."""

    def __init__(self, database: Database) -> None:
        self._users = database[COLLECTION]

    async def put(self, user: User) -> User:
        """Keep this, unless the same version or a newer one is known; returns what is known then."""
        try:
            await self._users.update_one(
                {"_id": user.id, "version": {"$lt": user.version}},
                {"$set": {"version": user.version, "is_active": user.is_active}},
                upsert=True,
            )
        except DuplicateKeyError:  # the document is there and the filter did not match it: it is as new
            return await self.find(user.id) or user
        return user

    async def find(self, user_id: str) -> User | None:
        return (await self.find_several([user_id])).get(user_id)

    async def find_several(self, user_ids: list[str]) -> dict[str, User]:
        """Those heard of, by id."""
        documents = await self._users.find({"_id": {"$in": user_ids}}).to_list(len(user_ids))
        return {
            document["_id"]: User(document["_id"], document["is_active"], document["version"]) for document in documents
        }
