"""The candle store: gaps, corrections and revisions follow the rows by themselves."""

from trader.migrate import backward, forward

revision = "0015_store"
down_revision = "0014_stream"


def upgrade() -> None:
    forward(revision)


def downgrade() -> None:
    backward(revision)
