"""How fast the gateway is, beside what else could stand in its place."""
