DROP TABLE strategy, timeframe, market, account, exchange, asset;
DROP FUNCTION strategy_check(), process(), only_from_processes(), only_from_triggers(), refuse();
DROP TYPE fee_side, account_mode;
DROP DOMAIN positive_amount, amount;
