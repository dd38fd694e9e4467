-- Markets, orders and books stay as they are; rates, their history and the readings of prices go. Feeds of markets that do not trade are asked for again.
DROP VIEW equity_history, account_total, account_value;
DROP VIEW holding, performance;

CREATE VIEW holding AS
  SELECT s.name AS strategy, c.name AS account, a.code AS asset, trim_scale(b.total) AS total, trim_scale(b.held) AS held,
         round(k.cost / nullif(k.quantity, 0), 8) AS average_cost, round(p.price, 8) AS price, round(b.total * p.price, 8) AS value, u.code AS unit
    FROM strategy s
    JOIN account c ON c.id = s.account_id
    JOIN asset u ON u.id = s.unit_id
    JOIN ledger_account l ON l.strategy_id = s.id
    JOIN balance b ON b.ledger_account_id = l.id AND b.total <> 0
    JOIN asset a ON a.id = b.asset_id
    LEFT JOIN market m ON m.exchange_id = c.exchange_id AND m.base_id = b.asset_id AND m.quote_id = s.unit_id
    LEFT JOIN position k ON k.strategy_id = s.id AND k.market_id = m.id
    CROSS JOIN LATERAL (SELECT asset_price(b.asset_id, s.unit_id, c.exchange_id) AS price) p;
COMMENT ON VIEW holding IS 'What each strategy owns, at what average cost, and what it is worth now in the strategy''s unit.';
COMMENT ON COLUMN holding.total IS 'What the strategy has of the asset.';
COMMENT ON COLUMN holding.held IS 'How much of it open orders reserve.';
COMMENT ON COLUMN holding.average_cost IS 'In unit for one asset, fees included.';
COMMENT ON COLUMN holding.price IS 'In unit for one asset: the last candle close, else the last fill.';
COMMENT ON COLUMN holding.value IS 'total at that price.';
COMMENT ON COLUMN holding.unit IS 'The asset that the strategy is told in.';

CREATE VIEW performance AS
  SELECT e.strategy, e.unit, round(f.deposits, 8) AS deposits, round(f.withdrawals, 8) AS withdrawals, round(e.equity, 8) AS equity,
         round(e.equity - e.paid_in, 8) AS profit, round(p.realised, 8) AS realised, round(p.unrealised, 8) AS unrealised, round(p.fees, 8) AS fees,
         round(100 * (e.unit_value - 1), 4) AS return_percent,
         round(100 * greatest(d.max_drawdown, 1 - e.unit_value / greatest(d.peak, e.unit_value, 1)), 4) AS max_drawdown_percent,
         p.trades, round(100.0 * p.wins / nullif(p.trades, 0), 2) AS win_percent, e.unpriced
    FROM equity e
    JOIN strategy s ON s.id = e.strategy_id
    JOIN account c ON c.id = s.account_id
    LEFT JOIN drawdown d ON d.strategy_id = s.id
    CROSS JOIN LATERAL (SELECT coalesce(sum(value) FILTER (WHERE value > 0), 0) AS deposits, coalesce(-sum(value) FILTER (WHERE value < 0), 0) AS withdrawals
                          FROM flow WHERE strategy_id = s.id) f
    CROSS JOIN LATERAL (
      SELECT coalesce(sum(k.realised * r.rate), 0) AS realised, coalesce(sum((CASE WHEN k.quantity = 0 THEN 0 ELSE k.quantity * market_price(m.id) END - k.cost) * r.rate), 0) AS unrealised,
             coalesce(sum(k.fees * r.rate), 0) AS fees, coalesce(sum(k.trades), 0)::int AS trades, coalesce(sum(k.wins), 0)::int AS wins
        FROM position k JOIN market m ON m.id = k.market_id
        CROSS JOIN LATERAL (SELECT asset_price(m.quote_id, s.unit_id, c.exchange_id) AS rate) r
       WHERE k.strategy_id = s.id) p;
COMMENT ON VIEW performance IS 'What each strategy made, in its unit. Deposits and withdrawals never touch profit.';
COMMENT ON COLUMN performance.unit IS 'The asset that all amounts here are told in.';
COMMENT ON COLUMN performance.deposits IS 'All that came, at the prices of the moment.';
COMMENT ON COLUMN performance.withdrawals IS 'All that went, at the prices of the moment.';
COMMENT ON COLUMN performance.equity IS 'Everything it has, at the last prices.';
COMMENT ON COLUMN performance.fees IS 'Paid in any asset, valued at the fill; part of realised and unrealised already.';
COMMENT ON COLUMN performance.unpriced IS 'Assets that are left out because nobody knows their price.';
COMMENT ON COLUMN performance.profit IS 'Equity minus what was paid in, net.';
COMMENT ON COLUMN performance.realised IS 'From what was sold, at average cost, after fees.';
COMMENT ON COLUMN performance.unrealised IS 'What is held, at the last close, minus its cost.';
COMMENT ON COLUMN performance.return_percent IS 'Time-weighted: equity per unit minus 1, where each deposit buys units at equity / units.';
COMMENT ON COLUMN performance.max_drawdown_percent IS 'The deepest fall of the unit value from a peak.';
COMMENT ON COLUMN performance.trades IS 'Sell orders that traded.';
COMMENT ON COLUMN performance.win_percent IS 'Share of those that realised a profit.';

GRANT SELECT ON holding, performance TO tallydesk_reader, tallydesk_user;

DROP TRIGGER follow_market ON bucket_feed;
DROP TRIGGER market_stops_or_goes_on ON market;
DROP TRIGGER market_check ON market;
DROP TRIGGER kept ON market;
DROP TRIGGER market_kept ON market;
UPDATE bucket_feed SET status = CASE WHEN newest IS NULL THEN 'absent' ELSE 'building' END::feed_status, last_error = NULL, error_at = NULL
 WHERE status = 'error' AND last_error LIKE 'market is % at the venue since %';
UPDATE incident SET resolved_at = clock_timestamp() WHERE kind = 'market inactive' AND resolved_at IS NULL;
DROP FUNCTION market_stops_or_goes_on(), bucket_feed_follow_market(), market_check(), market_kept(), market_trouble(int);
ALTER TABLE market DROP COLUMN status, DROP COLUMN listed, DROP COLUMN inactive_since;
COMMENT ON COLUMN market.active IS 'False: the venue does not trade it now; orders on it are denied.';
ALTER TABLE exchange DROP COLUMN synced_at;

DROP VIEW rates;
DROP FUNCTION rates_write(), unit_rate(smallint);
DROP TABLE account_read, asset_rate_point, asset_rate, price_read, ticker, setting;
DROP FUNCTION asset_rate_follow(), asset_rate_check(), setting_check();
DROP TYPE rate_source;
