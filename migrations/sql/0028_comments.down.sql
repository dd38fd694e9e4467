COMMENT ON COLUMN backtest_run.refused IS 'Orders that were decided and not filled: how many, by reason.';
COMMENT ON COLUMN backtest_run.digest IS 'SHA-256 of the candles and of those of the inputs, so that a change of the data shows.';
COMMENT ON COLUMN strategy_state.target IS 'The last target that it gave; the next one is a fresh cross if this is 0 or less. NULL: none yet, or a gap came after it.';
COMMENT ON COLUMN orders.bucket_time IS 'The close of the candle that it answers; at most one order per strategy and candle.';
