"""All SQL of the service: one module per group of tables."""
