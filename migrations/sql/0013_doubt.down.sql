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
      ('order_follow', '(moved.triggered OR g.triggered_at IS NOT NULL))', '(moved.triggered OR g.triggered_at IS NOT NULL OR order_may_go_on(g.id, moved.id)))'),
      ('orders_insert', 'NEW.venue_order_id, NEW.triggered_at);', 'NEW.venue_order_id, NEW.triggered_at, NEW.due_quantity);'),
      ('orders_insert', 'after_id, parent_id, expires_at, bucket_time: the rest', 'after_id, parent_id, replaces_id, expires_at, bucket_time: the rest'),
      ('orders_insert', 'NEW.trigger_when, NEW.after_id, NEW.parent_id) > 0', 'NEW.trigger_when, NEW.after_id, NEW.parent_id, NEW.replaces_id) > 0'),
      ('orders_insert', 'trigger_price, trigger_when, after_id, parent_id)', 'trigger_price, trigger_when, after_id, parent_id, replaces_id)'),
      ('orders_insert', 'NEW.trigger_when::trigger_when, NEW.after_id, NEW.parent_id)', 'NEW.trigger_when::trigger_when, NEW.after_id, NEW.parent_id, NEW.replaces_id)')
    ) x (function, new, old) LOOP
    definition := pg_get_functiondef(change.function::regproc);
    IF (length(definition) - length(replace(definition, change.old, ''))) / length(change.old) <> 1 THEN
      RAISE EXCEPTION '% does not have "%" once', change.function, change.old;
    END IF;
    EXECUTE replace(definition, change.old, change.new);
  END LOOP;
END $$;

DROP VIEW orders, order_in_doubt, order_attempt;
DO $$
DECLARE
  definition text := regexp_replace(pg_get_viewdef('invariant_violation'), '^(.*)UNION ALL.*$', '\1');
BEGIN
  EXECUTE 'CREATE OR REPLACE VIEW invariant_violation AS '
    || replace(replace(definition, 'order_stuck(w.id)', 'order_is_final(a.status)'), 'order_triggered(w.id)', '(w.triggered_at IS NOT NULL)');
END $$;
DROP FUNCTION order_stuck(bigint), order_triggered(bigint), order_due("order"), order_evidence(bigint), order_may_go_on(bigint, bigint), order_replaced(bigint), order_replaced_quantity(bigint), order_line_ended(bigint), order_line(bigint);
DROP TABLE look_up, attempt_in_doubt;
DROP TYPE look_up_answer;
DROP INDEX incident_in_doubt;
ALTER TABLE account DROP COLUMN doubt_alert;
COMMENT ON COLUMN incident.resolved_at IS 'When a person dealt with it; NULL: open.';
REVOKE INSERT (replaces_id) ON "order" FROM tallydesk_user;
ALTER TABLE "order" DROP COLUMN replaces_id, DROP COLUMN due_quantity, DROP COLUMN replaced_quantity, DROP COLUMN looked_up_by;
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
