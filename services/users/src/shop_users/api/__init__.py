"""HTTP in: thin routes over the use cases."""
