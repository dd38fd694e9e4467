"""Orders that are not done, by the indexes that are there."""

from trader.migrate import backward, forward

revision = "0026_open_order"
down_revision = "0025_sweep"


def upgrade() -> None:
    forward(revision)


def downgrade() -> None:
    backward(revision)
