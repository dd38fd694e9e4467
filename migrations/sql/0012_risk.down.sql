-- The older version knows no limits and no reducing. An account that only reduces is halted, not set free.
UPDATE account SET halted = true, halt_reason = concat_ws('; ', halt_reason, 'it was reducing, which this version does not know') WHERE reducing AND NOT halted;
DROP VIEW risk_usage, limits;
DROP FUNCTION limits_write(), risk_losses(int[]), risk_positions(int), risk_open_orders(int, int);
DROP TABLE risk_sent, risk_limit;
DROP FUNCTION risk_limit_check();
REVOKE UPDATE (reducing) ON account FROM tallydesk_user;
ALTER TABLE account DROP COLUMN state, DROP COLUMN reducing;
