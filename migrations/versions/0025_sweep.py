"""Searches over parameters: sweeps, their folds, their trials."""

from trader.migrate import backward, forward

revision = "0025_sweep"
down_revision = "0024_backtest"


def upgrade() -> None:
    forward(revision)


def downgrade() -> None:
    backward(revision)
