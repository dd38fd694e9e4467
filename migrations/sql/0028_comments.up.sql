-- Comments in the words of today: steps since have changed what their columns hold.

COMMENT ON COLUMN backtest_run.refused IS 'Orders that were decided and not filled, and entries that were not taken: how many, by reason.';
COMMENT ON COLUMN backtest_run.digest IS 'SHA-256 of the candles and of those of the inputs, and of the gaps that its class does not decide across, so that a change of the data shows.';
COMMENT ON COLUMN strategy_state.target IS 'The last target that it gave; the next one is a fresh cross if this is 0 or less. NULL: none yet, or a gap that its class does not accept came after it.';
COMMENT ON COLUMN orders.bucket_time IS 'The close of the candle that it answers; each part of a strategy''s decision there is one order at most.';
