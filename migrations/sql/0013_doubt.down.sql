-- What the older version cannot keep is ended first: orders that replace others and wait, and those that would be sent with more than is left.
-- The evidence goes with its tables; incidents stay.
DO $$
BEGIN
  PERFORM set_config('tallydesk.process', 'migration', true);
  UPDATE "order" o SET status = 'canceled', reason = 'the older version cannot keep it'
   WHERE o.status = 'queued' AND o.due_quantity IS NOT NULL OR o.status < 'queued' AND (o.replaces_id IS NOT NULL
     OR o.quantity IS NOT NULL AND EXISTS (SELECT FROM "order" g WHERE g.parent_id = o.parent_id AND g.id <> o.id AND g.filled_quantity > 0)
     OR EXISTS (SELECT FROM "order" r WHERE r.replaces_id = o.after_id));
  PERFORM set_config('tallydesk.process', '', true);
END $$;

DROP TRIGGER order_doubt ON "order";
DROP TRIGGER order_doubt_ends ON "order";
DROP TRIGGER order_replaces ON "order";
DROP TRIGGER order_replaces_fixed ON "order";
DROP TRIGGER order_replaces_follow ON "order";
DROP TRIGGER incident_notify ON incident;
DROP FUNCTION order_doubt(), order_doubt_ends(), order_replaces(), order_replaces_fixed(), order_replaces_follow(), incident_notify();

CREATE OR REPLACE FUNCTION order_release(p_orders bigint[]) RETURNS void LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
  w record;
  what order_status;
  why text;
  rival bigint;
BEGIN
  FOR w IN SELECT id, after_id, parent_id, trigger_price, triggered_at, expires_at, reason FROM "order"
            WHERE id = ANY(p_orders) AND status = 'waiting' ORDER BY id FOR NO KEY UPDATE LOOP
    SELECT CASE WHEN NOT order_is_final(a.status) THEN 'waiting' WHEN a.filled_quantity = 0 THEN 'canceled' ELSE 'queued' END::order_status,
           format('order %s, for which it waited, is %s', a.id, a.status) INTO what, why FROM "order" a WHERE a.id = w.after_id;
    IF w.after_id IS NULL THEN
      what := 'queued';
      why := NULL;
    END IF;
    SELECT g.id INTO rival FROM "order" g
     WHERE g.parent_id = w.parent_id AND g.id <> w.id AND g.filled_quantity > 0 AND (g.status = 'filled' OR w.triggered_at IS NULL) ORDER BY g.id LIMIT 1;
    IF what = 'queued' AND rival IS NOT NULL THEN
      what := 'canceled';
      why := format('order %s of its group has traded', rival);
    END IF;
    IF what = 'queued' AND w.trigger_price IS NOT NULL AND (w.triggered_at IS NULL
       OR EXISTS (SELECT FROM "order" g WHERE g.parent_id = w.parent_id AND g.id <> w.id AND g.status <> 'waiting' AND NOT order_is_final(g.status))) THEN
      what := 'waiting';
    ELSIF what = 'queued' AND w.expires_at < clock_timestamp() THEN
      what := 'expired';
      why := 'it expired while it waited';
    END IF;
    IF what <> 'waiting' THEN
      UPDATE "order" SET status = what, reason = CASE WHEN what = 'queued' THEN coalesce(w.reason, why) ELSE why END WHERE id = w.id;
    END IF;
  END LOOP;
END $$;

-- Each of these words back; whatever else the functions have become stays.
DO $$
DECLARE
  change record;
  definition text;
BEGIN
  FOR change IN SELECT * FROM (VALUES
      ('order_follow()', '(moved.triggered OR g.triggered_at IS NOT NULL))', '(moved.triggered OR g.triggered_at IS NOT NULL OR order_may_go_on(g.id, moved.id)))'),
      ('orders_insert()', 'NEW.venue_order_id, NEW.triggered_at);', 'NEW.venue_order_id, NEW.triggered_at, NEW.due_quantity);'),
      ('orders_insert()', 'after_id, parent_id, expires_at, bucket_time: the rest', 'after_id, parent_id, replaces_id, expires_at, bucket_time: the rest'),
      ('orders_insert()', 'NEW.trigger_when, NEW.after_id, NEW.parent_id) > 0', 'NEW.trigger_when, NEW.after_id, NEW.parent_id, NEW.replaces_id) > 0'),
      ('orders_insert()', 'trigger_price, trigger_when, after_id, parent_id)', 'trigger_price, trigger_when, after_id, parent_id, replaces_id)'),
      ('orders_insert()', 'NEW.trigger_when::trigger_when, NEW.after_id, NEW.parent_id)', 'NEW.trigger_when::trigger_when, NEW.after_id, NEW.parent_id, NEW.replaces_id)')
    ) x (function, new, old) LOOP
    definition := pg_get_functiondef(change.function::regprocedure);
    IF (length(definition) - length(replace(definition, change.old, ''))) / length(change.old) <> 1 THEN
      RAISE EXCEPTION '% does not have "%" once', change.function, change.old;
    END IF;
    EXECUTE replace(definition, change.old, change.new);
  END LOOP;
END $$;

DROP VIEW orders, order_in_doubt, order_attempt;
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
   WHERE p.realised <> o.realised
  UNION ALL
  SELECT 'every foreign fill is posted', format('external fill %s', f.id), NULL, 'no ledger row'
    FROM external_fill f WHERE NOT EXISTS (SELECT FROM ledger l WHERE l.external_fill_id = f.id)
  UNION ALL
  SELECT 'foreign fills post to external alone', format('ledger %s', l.id), f.kind::text, t.kind::text
    FROM ledger l JOIN ledger_account f ON f.id = l.from_id JOIN ledger_account t ON t.id = l.to_id
   WHERE l.external_fill_id IS NOT NULL AND (f.account_id <> t.account_id OR NOT (f.kind = 'external' AND t.kind IN ('venue', 'fees') OR t.kind = 'external' AND f.kind IN ('venue', 'fees')))
  UNION ALL
  SELECT 'a trade is ours or foreign, not both', format('fill %s', f.id), format('external fill %s', x.id), f.trade_id
    FROM external_fill x JOIN fill f ON (f.account_id, f.market_id, f.trade_id, f.side) = (x.account_id, x.market_id, x.trade_id, x.side)
  -- The status before queued is waiting. A value that a transaction adds to a type cannot be named in it.
  UNION ALL
  SELECT 'no order waits for one that is final', format('order %s', w.id), w.status::text, format('order %s is %s', a.id, a.status)
    FROM "order" w JOIN "order" a ON a.id = w.after_id
   WHERE w.status < 'queued' AND order_is_final(a.status) AND (a.filled_quantity = 0 OR w.trigger_price IS NULL)
  UNION ALL
  SELECT 'a triggered order waits only while another of its group is open', format('order %s', w.id), w.status::text, format('triggered at %s', w.triggered_at)
    FROM "order" w
   WHERE w.status < 'queued' AND w.triggered_at IS NOT NULL
     AND NOT EXISTS (SELECT FROM "order" g WHERE g.parent_id = w.parent_id AND g.id <> w.id AND g.status >= 'queued' AND NOT order_is_final(g.status));

DROP FUNCTION order_due("order"), order_evidence(bigint), order_may_go_on(bigint, bigint), order_replaced(bigint), order_line_ended(bigint), order_line(bigint);
DROP TABLE look_up, attempt_in_doubt;
DROP TYPE look_up_answer;
DROP INDEX incident_in_doubt;
ALTER TABLE account DROP COLUMN doubt_alert;
COMMENT ON COLUMN incident.resolved_at IS 'When a person dealt with it; NULL: open.';
REVOKE INSERT (replaces_id) ON "order" FROM tallydesk_user;
ALTER TABLE "order" DROP COLUMN replaces_id, DROP COLUMN due_quantity, DROP COLUMN replaced_quantity;
COMMENT ON COLUMN "order".expires_at IS 'If no trader has seen it by then, it is denied as stale; one that still waits then is expired. Default: order_ttl of its strategy after it was queued.';
COMMENT ON COLUMN "order".after_id IS 'It waits until that order has ended: queued if that filled anything, else canceled.';
COMMENT ON COLUMN "order".parent_id IS 'Orders with the same parent are a group, of which one cancels the others: the first fill of one asks for the cancel of the rest.';

CREATE VIEW orders AS
  SELECT o.id, s.name AS strategy, o.status::text AS status, o.type::text AS type, o.side::text AS side,
         e.name || ':' || m.symbol AS market, a.code AS asset, trim_scale(o.quantity) AS quantity, trim_scale(o.quote_quantity) AS quote_quantity,
         trim_scale(o.limit_price) AS limit_price, trim_scale(o.filled_quantity) AS filled_quantity,
         round(o.filled_quote / nullif(o.filled_quantity, 0), 8) AS average_price, trim_scale(o.filled_quote) AS filled_quote,
         round(o.realised, 8) AS realised, o.reason, o.created_at, o.expires_at, o.bucket_time, o.submitted_at, o.cancel_requested_at, o.updated_at,
         c.name AS account, o.client_order_id, o.venue_order_id,
         o.time_in_force::text AS time_in_force, trim_scale(o.trigger_price) AS trigger_price, o.trigger_when::text AS trigger_when, o.triggered_at,
         o.after_id, o.parent_id
    FROM "order" o
    JOIN strategy s ON s.id = o.strategy_id
    JOIN account c ON c.id = o.account_id
    LEFT JOIN market m ON m.id = o.market_id
    LEFT JOIN exchange e ON e.id = m.exchange_id
    LEFT JOIN asset a ON a.id = o.asset_id;
COMMENT ON VIEW orders IS 'Orders by names. INSERT queues, deposits or withdraws; UPDATE ... SET cancel_requested_at = now() cancels.';
DO $$
DECLARE
  c record;
BEGIN
  FOR c IN SELECT v.attname AS name, col_description('"order"'::regclass, o.attnum) AS meaning FROM pg_attribute v JOIN pg_attribute o USING (attname)
            WHERE v.attrelid = 'orders'::regclass AND o.attrelid = '"order"'::regclass AND v.attnum > 0 AND o.attnum > 0 LOOP
    EXECUTE format('COMMENT ON COLUMN orders.%I IS %L', c.name, c.meaning);
  END LOOP;
END $$;
COMMENT ON COLUMN orders.market IS 'exchange:symbol, as in binance:BTC/USDT.';
COMMENT ON COLUMN orders.average_price IS 'Mean price of its fills, before fees, in quote.';
CREATE TRIGGER orders_insert INSTEAD OF INSERT ON orders FOR EACH ROW EXECUTE FUNCTION orders_insert();
CREATE TRIGGER orders_change INSTEAD OF UPDATE OR DELETE ON orders FOR EACH ROW EXECUTE FUNCTION orders_change();

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

GRANT SELECT ON orders, order_in_doubt TO tallydesk_reader, tallydesk_user;
GRANT INSERT, UPDATE, DELETE ON orders TO tallydesk_user;
