"""Values that no feed can have, and derived feeds of a market that trades again."""

from trader.migrate import backward, forward

revision = "0020_mend"
down_revision = "0019_conversion"


def upgrade() -> None:
    forward(revision)


def downgrade() -> None:
    backward(revision)
