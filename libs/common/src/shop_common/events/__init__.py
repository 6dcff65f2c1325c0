"""What the services tell each other: the envelope of an event, and each producer's contracts."""
