"""Backtests: what a strategy would have done on candles that are there, by the rules by which it trades live.

No database, no exchange, no job: plain computation over columns. docs/backtests.md has the rules of a fill, the models
and the formulas.
"""
