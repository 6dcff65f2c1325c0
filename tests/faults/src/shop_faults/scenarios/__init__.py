"""The fault matrix: each row a scenario."""
