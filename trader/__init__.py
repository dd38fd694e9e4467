"""Tallydesk: a trading backend whose single truth is PostgreSQL."""
