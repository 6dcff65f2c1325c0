"""The use cases: what HTTP routes and events lead to."""
