"""Tallydesk: a trading backend whose single truth is PostgreSQL."""

__version__ = "0.1.0"
