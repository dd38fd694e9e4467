DROP VIEW backtest_month;
DROP VIEW backtest;
DROP TABLE backtest_equity;
DROP TABLE backtest_trade;
DROP TABLE backtest_run;
