"""What people read."""

from trader.migrate import backward, forward

revision = "0007_views"
down_revision = "0006_operations"


def upgrade() -> None:
    forward(revision)


def downgrade() -> None:
    backward(revision)
