"""The local cluster without Docker, for developers and for the tests."""
