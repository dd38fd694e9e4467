COMMENT ON COLUMN backtest_run.refused IS 'Orders that were decided and not filled, and entries that were not taken for want of a fresh cross: how many, by reason.';
