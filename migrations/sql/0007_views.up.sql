-- What people read.

CREATE VIEW allowance AS
  SELECT s.name AS strategy, a.code AS asset, trim_scale(b.total - b.held) AS free, trim_scale(b.held) AS held, trim_scale(b.total) AS total,
         CASE s.allowance_unit WHEN '%' THEN round(100 * (b.total - b.held) * p.in_unit / nullif(e.equity, 0), 2)
              ELSE round((b.total - b.held) * asset_price(b.asset_id, (SELECT id FROM asset WHERE code = s.allowance_unit), c.exchange_id), 8) END AS allowance,
         s.allowance_unit AS unit
    FROM strategy s
    JOIN account c ON c.id = s.account_id
    JOIN ledger_account l ON l.strategy_id = s.id
    JOIN balance b ON b.ledger_account_id = l.id
    JOIN asset a ON a.id = b.asset_id
    CROSS JOIN LATERAL (SELECT asset_price(b.asset_id, s.unit_id, c.exchange_id) AS in_unit) p
    CROSS JOIN LATERAL strategy_equity(s.id) e;
COMMENT ON VIEW allowance IS 'What each strategy may still spend: what it was funded with, plus what it made, minus what it lost, minus what its orders hold.';
COMMENT ON COLUMN allowance.free IS 'total - held: what orders may still take.';
COMMENT ON COLUMN allowance.held IS 'Reserved by orders in flight or open.';
COMMENT ON COLUMN allowance.total IS 'What the strategy has of the asset.';
COMMENT ON COLUMN allowance.unit IS 'What the column allowance is told in.';
COMMENT ON COLUMN allowance.allowance IS 'The free part told in the strategy''s allowance_unit: an asset, or % of its equity. NULL: no price is known.';

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

CREATE VIEW equity AS
  SELECT s.id AS strategy_id, s.name AS strategy, e.equity, u.code AS unit, e.unpriced, f.paid_in, f.units,
         coalesce(e.equity / nullif(f.units, 0), (SELECT unit_value FROM flow WHERE strategy_id = s.id ORDER BY order_id DESC LIMIT 1), 1) AS unit_value
    FROM strategy s
    JOIN asset u ON u.id = s.unit_id
    CROSS JOIN LATERAL strategy_equity(s.id) e
    CROSS JOIN LATERAL (SELECT coalesce(sum(value), 0) AS paid_in, coalesce(sum(units), 0) AS units FROM flow WHERE strategy_id = s.id) f;
COMMENT ON VIEW equity IS 'What each strategy is worth in its unit, by the last candle closes.';
COMMENT ON COLUMN equity.equity IS 'Everything it has, at the last prices.';
COMMENT ON COLUMN equity.unit IS 'The asset that the strategy is told in.';
COMMENT ON COLUMN equity.paid_in IS 'Deposits minus withdrawals, each at the price of its moment.';
COMMENT ON COLUMN equity.units IS 'Units that its deposits bought.';
COMMENT ON COLUMN equity.unpriced IS 'Assets that are left out because nobody knows their price.';
COMMENT ON COLUMN equity.unit_value IS 'Equity per unit bought by deposits: 1 at the start; minus 1 it is the time-weighted return.';

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

CREATE VIEW order_in_doubt AS
  SELECT o.id, s.name AS strategy, c.name AS account, e.name || ':' || m.symbol AS market, o.side::text AS side, trim_scale(h.quantity) AS held, a.code AS held_asset,
         date_trunc('milliseconds', clock_timestamp() - o.submitted_at) AS age, o.receive_deadline, o.attempt, o.absences, o.next_look_at, o.reason, o.client_order_id
    FROM "order" o
    JOIN strategy s ON s.id = o.strategy_id
    JOIN account c ON c.id = o.account_id
    JOIN market m ON m.id = o.market_id
    JOIN exchange e ON e.id = m.exchange_id
    LEFT JOIN hold h ON h.order_id = o.id
    LEFT JOIN asset a ON a.id = h.asset_id
   WHERE o.status = 'submitted' AND (o.in_doubt_since IS NOT NULL OR o.receive_deadline < clock_timestamp());
COMMENT ON VIEW order_in_doubt IS 'Sent, and nobody can say yet whether it arrived. Its funds stay held until evidence settles it.';
COMMENT ON COLUMN order_in_doubt.held IS 'What is still reserved for it.';
COMMENT ON COLUMN order_in_doubt.age IS 'Since it was signed.';
DO $$
DECLARE
  c record;
BEGIN
  FOR c IN SELECT v.attname AS name, col_description('"order"'::regclass, o.attnum) AS meaning FROM pg_attribute v JOIN pg_attribute o USING (attname)
            WHERE v.attrelid = 'order_in_doubt'::regclass AND o.attrelid = '"order"'::regclass AND v.attnum > 0 AND o.attnum > 0 LOOP
    EXECUTE format('COMMENT ON COLUMN order_in_doubt.%I IS %L', c.name, c.meaning);
  END LOOP;
END $$;

CREATE VIEW reconciliation AS
  SELECT c.name AS account, a.code AS asset, trim_scale(v.total) AS venue, trim_scale(v.ledger) AS ledger,
         CASE WHEN v.settled THEN trim_scale(v.total - v.ledger) END AS drift,
         trim_scale(coalesce(b.strategies, 0)) AS strategies, trim_scale(coalesce(b.unallocated, 0)) AS unallocated, v.read_at
    FROM account c
    JOIN (SELECT l.account_id, b.asset_id, sum(b.total) FILTER (WHERE l.kind = 'strategy') AS strategies, sum(b.total) FILTER (WHERE l.kind = 'unallocated') AS unallocated
            FROM balance b JOIN ledger_account l ON l.id = b.ledger_account_id GROUP BY 1, 2) b ON b.account_id = c.id
    FULL JOIN account_balance v ON v.account_id = b.account_id AND v.asset_id = b.asset_id
    JOIN asset a ON a.id = coalesce(v.asset_id, b.asset_id)
   WHERE coalesce(v.total, 0) <> 0 OR coalesce(v.ledger, 0) <> 0 OR coalesce(b.strategies, 0) <> 0 OR coalesce(b.unallocated, 0) <> 0;
COMMENT ON VIEW reconciliation IS 'The venue''s balances beside the ledger. venue NULL: never read.';
COMMENT ON COLUMN reconciliation.venue IS 'What the venue said it has of ours.';
COMMENT ON COLUMN reconciliation.ledger IS 'What our books had then.';
COMMENT ON COLUMN reconciliation.read_at IS 'When the venue was read.';
COMMENT ON COLUMN reconciliation.drift IS 'venue - ledger, both at read_at. NULL: an order was in flight then, or the venue was never read.';
COMMENT ON COLUMN reconciliation.strategies IS 'What strategies have of it now.';
COMMENT ON COLUMN reconciliation.unallocated IS 'What nobody was given yet; below zero: more was given out than was ever there.';

CREATE VIEW execution AS
  SELECT f.id, f.traded_at, s.name AS strategy, e.name || ':' || m.symbol AS market, f.side::text AS side, trim_scale(f.quantity) AS quantity,
         trim_scale(f.price) AS price, trim_scale(f.quote) AS quote, trim_scale(f.fee) AS fee, a.code AS fee_asset, trim_scale(f.fee_value) AS fee_value,
         f.liquidity::text AS liquidity, f.source::text AS source, f.order_id, f.trade_id
    FROM fill f
    JOIN "order" o ON o.id = f.order_id
    JOIN strategy s ON s.id = o.strategy_id
    JOIN market m ON m.id = f.market_id
    JOIN exchange e ON e.id = m.exchange_id
    LEFT JOIN asset a ON a.id = f.fee_asset_id;
COMMENT ON VIEW execution IS 'The table fill by names.';
COMMENT ON COLUMN execution.traded_at IS 'When the venue traded it.';
COMMENT ON COLUMN execution.quantity IS 'Base traded.';
COMMENT ON COLUMN execution.price IS 'Quote for one base.';
COMMENT ON COLUMN execution.quote IS 'quantity x price.';
COMMENT ON COLUMN execution.fee IS 'In fee_asset; negative is a rebate.';
COMMENT ON COLUMN execution.fee_asset IS 'What the fee was paid in.';
COMMENT ON COLUMN execution.liquidity IS 'maker or taker.';
COMMENT ON COLUMN execution.order_id IS 'The order that it belongs to.';
COMMENT ON COLUMN execution.trade_id IS 'The venue''s number of the trade.';
COMMENT ON COLUMN execution.strategy IS 'Whose order it was.';
COMMENT ON COLUMN execution.market IS 'exchange:symbol.';
COMMENT ON COLUMN execution.side IS 'buy or sell.';
COMMENT ON COLUMN execution.fee_value IS 'The fee in the market''s quote asset; NULL if nobody knew its price.';
COMMENT ON COLUMN execution.source IS 'How we learned of it.';

CREATE VIEW posting AS
  SELECT l.id, l.at, l.kind::text AS kind, coalesce(fs.name, f.kind::text) AS from_, coalesce(ts.name, t.kind::text) AS to_, trim_scale(l.quantity) AS quantity,
         a.code AS asset, c.name AS account, l.order_id, l.fill_id, l.adjustment_id
    FROM ledger l
    JOIN asset a ON a.id = l.asset_id
    JOIN ledger_account f ON f.id = l.from_id
    JOIN ledger_account t ON t.id = l.to_id
    JOIN account c ON c.id = f.account_id
    LEFT JOIN strategy fs ON fs.id = f.strategy_id
    LEFT JOIN strategy ts ON ts.id = t.strategy_id;
COMMENT ON VIEW posting IS 'The ledger by names: from whom to whom, a strategy or a kind of ledger account.';
COMMENT ON COLUMN posting.at IS 'When it was posted.';
COMMENT ON COLUMN posting.kind IS 'deposit, withdrawal, trade, fee or adjustment.';
COMMENT ON COLUMN posting.quantity IS 'How much moved.';
COMMENT ON COLUMN posting.asset IS 'What moved.';
COMMENT ON COLUMN posting.account IS 'The exchange account in whose books it moved.';
COMMENT ON COLUMN posting.order_id IS 'The order that caused it.';
COMMENT ON COLUMN posting.fill_id IS 'The fill that caused it, if one did.';
COMMENT ON COLUMN posting.adjustment_id IS 'The adjustment that caused it, if one did.';
COMMENT ON COLUMN posting.from_ IS 'Whose it was: a strategy, or a kind of ledger account.';
COMMENT ON COLUMN posting.to_ IS 'Whose it is now.';

CREATE VIEW bucket_gap AS
  SELECT e.name || ':' || m.symbol AS market, t.name AS timeframe, g.previous AS gap_from, g.time_close - t.span AS gap_to,
         (extract(epoch FROM g.time_close - t.span - g.previous) / nullif(extract(epoch FROM t.span), 0))::bigint AS missing
    FROM (SELECT market_id, timeframe_id, time_close, lag(time_close) OVER (PARTITION BY market_id, timeframe_id ORDER BY time_close) AS previous FROM bucket) g
    JOIN timeframe t ON t.id = g.timeframe_id
    JOIN market m ON m.id = g.market_id
    JOIN exchange e ON e.id = m.exchange_id
   WHERE g.time_close - t.span > g.previous;
COMMENT ON VIEW bucket_gap IS 'Candles that are not there: between gap_from and gap_to the venue gave none. Reads all candles: filter by market and timeframe.';
COMMENT ON COLUMN bucket_gap.gap_from IS 'Close of the last candle before.';
COMMENT ON COLUMN bucket_gap.gap_to IS 'Opening of the next candle that is there.';
COMMENT ON COLUMN bucket_gap.missing IS 'How many candles that is.';

CREATE VIEW job_status AS
  SELECT task_name AS task, count(*) FILTER (WHERE status = 'todo') AS waiting, count(*) FILTER (WHERE status = 'doing') AS running,
         count(*) FILTER (WHERE status = 'succeeded') AS succeeded, count(*) FILTER (WHERE status = 'failed') AS failed,
         min(scheduled_at) FILTER (WHERE status = 'todo') AS next_at, max(attempts) AS most_attempts
    FROM procrastinate_jobs GROUP BY task_name;
COMMENT ON VIEW job_status IS 'Jobs by task. Finished ones are pruned after a while.';
COMMENT ON COLUMN job_status.waiting IS 'Not begun.';
COMMENT ON COLUMN job_status.running IS 'Being worked on.';
COMMENT ON COLUMN job_status.succeeded IS 'Done, and not pruned yet.';
COMMENT ON COLUMN job_status.failed IS 'Ended by an error.';
COMMENT ON COLUMN job_status.next_at IS 'When the next waiting one is due.';
COMMENT ON COLUMN job_status.most_attempts IS 'Of any job of this task.';

CREATE VIEW role_status AS
  SELECT r.name, r.kind, r.host,
         EXISTS (SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
                    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                    AND (l.classid::bigint << 32 | l.objid::bigint) = hashtextextended('role:' || r.name, 0)) AS alive,
         date_trunc('seconds', clock_timestamp() - r.beat_at) AS since_beat, r.started_at
    FROM role r;
COMMENT ON VIEW role_status IS 'The processes of the desk, and which of them live.';
COMMENT ON COLUMN role_status.alive IS 'Its advisory lock is held now.';
COMMENT ON COLUMN role_status.since_beat IS 'How long ago it last beat; a live one beats every few seconds.';

-- What is kept against the facts it is kept from. Always empty.
CREATE VIEW invariant_violation AS
  SELECT 'balance is the sum of its ledger rows' AS rule, format('ledger account %s, asset %s', k.id, k.asset_id) AS what, b.total::text AS kept, f.total::text AS facts
    FROM balance b FULL JOIN (
      SELECT x.id, x.asset_id, sum(x.delta) AS total
        FROM (SELECT from_id AS id, asset_id, -quantity AS delta FROM ledger UNION ALL SELECT to_id, asset_id, quantity FROM ledger) x
        JOIN ledger_account l ON l.id = x.id AND l.kind NOT IN ('funding', 'venue', 'fees') GROUP BY 1, 2) f ON f.id = b.ledger_account_id AND f.asset_id = b.asset_id
    CROSS JOIN LATERAL (SELECT coalesce(b.ledger_account_id, f.id) AS id, coalesce(b.asset_id, f.asset_id) AS asset_id) k
   WHERE coalesce(b.total, 0) <> coalesce(f.total, 0)
  UNION ALL
  SELECT 'held is the sum of holds', format('ledger account %s, asset %s', b.ledger_account_id, b.asset_id), b.held::text, coalesce(h.quantity, 0)::text
    FROM balance b LEFT JOIN (SELECT ledger_account_id, asset_id, sum(quantity) AS quantity FROM hold GROUP BY 1, 2) h USING (ledger_account_id, asset_id)
   WHERE b.held <> coalesce(h.quantity, 0)
  UNION ALL
  SELECT 'a strategy holds and spends no more than it has', format('%s, %s', s.name, a.code), (b.total - b.held)::text, coalesce(f.fees, 0)::text
    FROM balance b JOIN ledger_account l ON l.id = b.ledger_account_id JOIN strategy s ON s.id = l.strategy_id JOIN asset a ON a.id = b.asset_id
    LEFT JOIN LATERAL (SELECT sum(g.quantity) AS fees FROM ledger g WHERE b.total < b.held AND g.kind = 'fee' AND g.from_id = l.id AND g.asset_id = b.asset_id) f ON true
   WHERE b.total + coalesce(f.fees, 0) < b.held
  UNION ALL
  SELECT 'only orders in flight or open hold funds', format('order %s', o.id), h.quantity::text, o.status::text
    FROM hold h JOIN "order" o ON o.id = h.order_id WHERE o.status NOT IN ('submitted', 'accepted', 'partially_filled', 'pending_cancel')
  UNION ALL
  SELECT 'an order in flight or open holds funds', format('order %s', o.id), NULL, o.status::text
    FROM "order" o LEFT JOIN hold h ON h.order_id = o.id
   WHERE o.status IN ('submitted', 'accepted', 'partially_filled', 'pending_cancel') AND h.order_id IS NULL
  UNION ALL
  SELECT 'what an order filled is the sum of its fills', format('order %s', o.id), format('%s for %s', o.filled_quantity, o.filled_quote), format('%s for %s', f.quantity, f.quote)
    FROM "order" o LEFT JOIN (SELECT order_id, sum(quantity) AS quantity, sum(quote) AS quote FROM fill GROUP BY 1) f ON f.order_id = o.id
   WHERE (o.filled_quantity, o.filled_quote) <> (coalesce(f.quantity, 0), coalesce(f.quote, 0))
  UNION ALL
  SELECT 'every fill is posted', format('fill %s', f.id), NULL, 'no ledger row'
    FROM fill f WHERE NOT EXISTS (SELECT FROM ledger l WHERE l.order_id = f.order_id AND l.fill_id = f.id)
  UNION ALL
  SELECT 'every deposit and withdrawal is posted', format('order %s', o.id), NULL, 'no ledger row'
    FROM "order" o WHERE o.status = 'posted' AND NOT EXISTS (SELECT FROM ledger l WHERE l.order_id = o.id)
  UNION ALL
  SELECT 'every step has its event', format('order %s', o.id), o.status::text, e.to_status::text
    FROM "order" o LEFT JOIN LATERAL (SELECT to_status FROM order_event WHERE order_id = o.id ORDER BY id DESC LIMIT 1) e ON true
   WHERE o.status IS DISTINCT FROM e.to_status
  UNION ALL
  SELECT 'what a position realised is the sum of its orders', format('strategy %s, market %s', p.strategy_id, p.market_id), p.realised::text, o.realised::text
    FROM position p JOIN (SELECT strategy_id, market_id, sum(realised) AS realised FROM "order" WHERE market_id IS NOT NULL GROUP BY 1, 2) o USING (strategy_id, market_id)
   WHERE p.realised <> o.realised;
COMMENT ON VIEW invariant_violation IS 'Everything that is kept, computed again from the facts, where the two differ. Always empty; reads the whole history.';
COMMENT ON COLUMN invariant_violation.rule IS 'What should hold.';
COMMENT ON COLUMN invariant_violation.what IS 'Where it does not.';
COMMENT ON COLUMN invariant_violation.kept IS 'What the kept row says.';
COMMENT ON COLUMN invariant_violation.facts IS 'What the facts say.';
