"""The queue of background jobs: procrastinate 3.10's own schema, copied as it stands.

A call of procrastinate's `get_schema()` here would follow the installed version, and a fresh database would then differ
from one that was upgraded. A test says when the installed version's schema differs from this copy: that asks for a new
migration.
"""

from trader.migrate import backward, forward

revision = "0001_procrastinate"
down_revision = None


def upgrade() -> None:
    forward(revision)


def downgrade() -> None:
    backward(revision)
