DROP TRIGGER order_unallocated ON "order";
DROP FUNCTION order_unallocated();
-- Foreign fills go with their table, so their postings go too: the drift shows again, and going up reads them again from the venue.
CREATE OR REPLACE VIEW invariant_violation AS
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
DROP VIEW external, reconciliation;
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
GRANT SELECT ON reconciliation TO tallydesk_reader, tallydesk_user;

ALTER TABLE ledger DISABLE TRIGGER append_only;
ALTER TABLE balance DISABLE TRIGGER follows;
UPDATE balance b SET total = b.total - x.delta
  FROM (SELECT id, asset_id, sum(delta) AS delta
          FROM (SELECT from_id AS id, asset_id, -quantity AS delta FROM ledger WHERE external_fill_id IS NOT NULL
                UNION ALL SELECT to_id, asset_id, quantity FROM ledger WHERE external_fill_id IS NOT NULL) l GROUP BY 1, 2) x
 WHERE (b.ledger_account_id, b.asset_id) = (x.id, x.asset_id);
DELETE FROM ledger WHERE external_fill_id IS NOT NULL;
ALTER TABLE balance ENABLE TRIGGER follows;
ALTER TABLE ledger ENABLE TRIGGER append_only;
ALTER TABLE ledger DROP CONSTRAINT it_has_a_cause;
ALTER TABLE ledger DROP COLUMN external_fill_id;
ALTER TABLE ledger ADD CONSTRAINT it_has_a_cause CHECK (num_nonnulls(order_id, adjustment_id) = 1);

DROP TABLE account_drift, external_order, external_fill, execution_read;
DROP FUNCTION external_fill_post(), external_fill_insert(), drift_verdict(numeric, numeric, numeric, numeric, numeric);
ALTER TABLE account DROP COLUMN opened_at, DROP COLUMN drift_tolerated, DROP COLUMN drift_dust, DROP COLUMN drift_halts;

CREATE OR REPLACE FUNCTION adjustment_post() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
  INSERT INTO ledger (kind, from_id, to_id, asset_id, quantity, adjustment_id)
    SELECT 'adjustment', CASE WHEN n.quantity > 0 THEN f.id ELSE t.id END, CASE WHEN n.quantity > 0 THEN t.id ELSE f.id END, n.asset_id, abs(n.quantity), n.id
      FROM new_rows n JOIN ledger_account f ON f.account_id = n.account_id AND f.kind = 'funding'
      JOIN ledger_account t ON t.account_id = n.account_id
       AND t.kind = (CASE n.kind WHEN 'opening' THEN 'unallocated' ELSE n.kind::text END)::ledger_account_kind
     ORDER BY n.id;
  RETURN NULL;
END $$;

-- A value cannot be taken out of a type: new types, and the nearest old value for the rows that have the new one.
ALTER TYPE adjustment_kind RENAME TO adjustment_kind_9;
CREATE TYPE adjustment_kind AS ENUM ('opening', 'external', 'suspense');
ALTER TABLE adjustment ALTER COLUMN kind TYPE adjustment_kind USING (CASE kind::text WHEN 'transfer' THEN 'opening' ELSE kind::text END)::adjustment_kind;
DROP TYPE adjustment_kind_9;
-- The view execution shows the column: it is made again as it was.
DO $$
DECLARE
  later text[];
  statement text;
BEGIN
  SELECT ARRAY[format('CREATE VIEW execution AS %s', pg_get_viewdef(c.oid)), format('COMMENT ON VIEW execution IS %L', obj_description(c.oid, 'pg_class')),
               'GRANT SELECT ON execution TO tallydesk_reader, tallydesk_user']
         || (SELECT array_agg(format('COMMENT ON COLUMN execution.%I IS %L', attname, col_description(c.oid, attnum)) ORDER BY attnum) FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0)
    INTO later FROM pg_class c WHERE c.oid = 'execution'::regclass;
  DROP VIEW execution;
  ALTER TYPE fill_source RENAME TO fill_source_9;
  CREATE TYPE fill_source AS ENUM ('answer', 'look-up', 'poll');
  ALTER TABLE fill ALTER COLUMN source TYPE fill_source USING (CASE source::text WHEN 'reconciliation' THEN 'poll' ELSE source::text END)::fill_source;
  DROP TYPE fill_source_9;
  FOREACH statement IN ARRAY later LOOP
    EXECUTE statement;
  END LOOP;
END $$;
COMMENT ON COLUMN fill.source IS 'How we learned of it: the answer to our request, a look-up of an order in doubt, or the regular poll.';
COMMENT ON COLUMN adjustment.kind IS 'opening: what was there when the account was first read (becomes unallocated); external: other people''s doing; suspense: unexplained.';
