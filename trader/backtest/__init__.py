"""Backtests: what a strategy would have done on candles that are there, by the rules by which it trades live.

No exchange and no job: plain computation over columns. Only `load`, `store`, `sweep*` and `exact*` talk to a database.
docs/backtests.md has the rules of a fill, the models and the formulas.
"""
