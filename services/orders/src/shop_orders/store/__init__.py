"""All there is of MongoDB: orders with their outbox, and what is known of users."""
