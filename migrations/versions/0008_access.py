"""The roles tallydesk_user and tallydesk_reader."""

from trader.migrate import backward, forward

revision = "0008_access"
down_revision = "0007_views"


def upgrade() -> None:
    forward(revision)


def downgrade() -> None:
    backward(revision)
