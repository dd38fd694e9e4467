"""What everything is worth in one unit, how old that is, and markets that their venue does not trade any more."""

from trader.migrate import backward, forward

revision = "0019_conversion"
down_revision = "0018_budget"


def upgrade() -> None:
    forward(revision)


def downgrade() -> None:
    backward(revision)
