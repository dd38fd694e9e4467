"""The venue's user-data stream as a source of fills."""

from trader.migrate import backward, forward

revision = "0014_stream"
down_revision = "0013_doubt"


def upgrade() -> None:
    forward(revision)


def downgrade() -> None:
    backward(revision)
