"""Orders and the machine of their states."""
