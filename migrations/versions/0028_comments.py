"""Comments in the words of today: steps since have changed what their columns hold."""

from trader.migrate import backward, forward

revision = "0028_comments"
down_revision = "0027_trail"


def upgrade() -> None:
    forward(revision)


def downgrade() -> None:
    backward(revision)
