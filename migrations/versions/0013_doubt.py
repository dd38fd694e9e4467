"""Attempts and look-ups as rows, alerts of orders in doubt, cancel-replace, exits that go on with what is left."""

from trader.migrate import backward, forward

revision = "0013_doubt"
down_revision = "0012_risk"


def upgrade() -> None:
    forward(revision)


def downgrade() -> None:
    backward(revision)
