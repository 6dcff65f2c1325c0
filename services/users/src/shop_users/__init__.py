"""Users, their credentials and tokens, and statistics of their orders."""
