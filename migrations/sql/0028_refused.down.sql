COMMENT ON COLUMN backtest_run.refused IS 'Orders that were decided and not filled: how many, by reason.';
