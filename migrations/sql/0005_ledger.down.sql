DROP TRIGGER order_hold ON "order";
DROP TRIGGER order_post ON "order";
DROP TRIGGER ledger_account ON strategy;
DROP TRIGGER ledger_accounts ON account;
DROP TABLE flow, position, hold, balance, ledger, adjustment, fill, ledger_account;
DROP FUNCTION adjustment_post(), fill_post(), fill_insert(),
  position_deposit(int, int, numeric, numeric, int, int), order_post(), hold_delete(), hold_update(), hold_insert(), order_hold(), ledger_post(),
  strategy_equity(int), asset_price(int, int, int), market_price(int), ledger_account_of_strategy(), ledger_accounts_of_account();
DROP TYPE ledger_kind, adjustment_kind, fill_source, liquidity, ledger_account_kind;
