"""Alembic's migrations of the accounts database; run by `accounts/database.py`, never by hand."""

HEAD = "0002"
"""The newest revision. A database that is there needs no migration, and no import of alembic."""
