"""One budget of requests for each venue, shared by all processes and machines."""

from trader.migrate import backward, forward

revision = "0018_budget"
down_revision = "0017_gaps"


def upgrade() -> None:
    forward(revision)


def downgrade() -> None:
    backward(revision)
