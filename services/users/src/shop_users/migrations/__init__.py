"""The schema's history, as Alembic scripts of plain SQL; inside the package so that every installation has it."""
