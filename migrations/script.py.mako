"""${message}"""

from trader.migrate import backward, forward

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    forward(revision)


def downgrade() -> None:
    backward(revision)
