DROP TABLE drawdown, equity_point, account_balance, incident, role;
DROP FUNCTION equity_point_insert();
DROP TYPE severity;
