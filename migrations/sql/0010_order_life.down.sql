-- What the older version cannot keep is ended first: orders that wait, and queued ones with a time in force, are canceled. One that is in
-- flight with a time in force stops the step back: it could be sent again without it. Groups of orders at the venue are loose from now on.
-- In the history `waiting` becomes `queued`.
DO $$
DECLARE
  in_flight text;
BEGIN
  SELECT string_agg(id::text, ', ') INTO in_flight FROM "order" WHERE status = 'submitted' AND time_in_force <> 'GTC';
  IF in_flight IS NOT NULL THEN
    RAISE EXCEPTION 'orders % are in flight with a time in force that the older version does not know: wait until they are settled', in_flight
      USING ERRCODE = 'object_in_use';
  END IF;
  PERFORM set_config('tallydesk.process', 'migration', true);
  UPDATE "order" SET status = 'canceled', reason = 'the older version cannot keep it' WHERE status < 'queued' OR (status = 'queued' AND time_in_force <> 'GTC');
  PERFORM set_config('tallydesk.process', '', true);
END $$;

DROP VIEW invariant_violation, order_in_doubt, orders;
DROP TRIGGER order_follow_insert ON "order";
DROP TRIGGER order_follow_update ON "order";
DROP FUNCTION order_follow(), order_release(bigint[]), order_chain(bigint);
DROP INDEX order_waiting, order_after, order_parent, order_queued, order_submitted, order_open;
REVOKE INSERT (time_in_force, trigger_price, trigger_when, after_id, parent_id) ON "order" FROM tallydesk_user;
ALTER TABLE "order" DROP COLUMN time_in_force, DROP COLUMN trigger_price, DROP COLUMN trigger_when, DROP COLUMN triggered_at,
  DROP COLUMN after_id, DROP COLUMN parent_id;
DROP TYPE time_in_force, trigger_when;

-- A value cannot be taken out of a type: the type is made anew.
DROP FUNCTION order_is_final(order_status), order_step_exists(order_status, order_status);
ALTER TYPE order_status RENAME TO order_status_with_waiting;
CREATE TYPE order_status AS ENUM ('queued', 'submitted', 'accepted', 'partially_filled', 'pending_cancel',
                                  'filled', 'canceled', 'expired', 'rejected', 'denied', 'posted');
ALTER TABLE "order" ALTER COLUMN status DROP DEFAULT;
ALTER TABLE "order" ALTER COLUMN status TYPE order_status USING status::text::order_status;
ALTER TABLE "order" ALTER COLUMN status SET DEFAULT 'queued';
ALTER TABLE order_event
  ALTER COLUMN from_status TYPE order_status USING replace(from_status::text, 'waiting', 'queued')::order_status,
  ALTER COLUMN to_status TYPE order_status USING replace(to_status::text, 'waiting', 'queued')::order_status;
DROP TYPE order_status_with_waiting;
CREATE INDEX order_queued ON "order" (strategy_id, id) WHERE status = 'queued';
CREATE INDEX order_submitted ON "order" (account_id, id) WHERE status = 'submitted';
CREATE INDEX order_open ON "order" (account_id, market_id) WHERE status IN ('accepted', 'partially_filled', 'pending_cancel');
COMMENT ON COLUMN "order".status IS 'queued -> submitted -> accepted -> partially_filled -> filled; denied: refused by us; rejected: refused by the venue; posted: a deposit or withdrawal.';
COMMENT ON COLUMN "order".expires_at IS 'If no trader has seen it by then, it is denied as stale. Default: created_at + strategy.order_ttl.';

CREATE FUNCTION order_is_final(status order_status) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT status IN ('filled', 'canceled', 'expired', 'rejected', 'denied', 'posted') $$;
COMMENT ON FUNCTION order_is_final IS 'No further step follows; late fills are still booked.';

-- The whole state machine. accepted may be skipped: a look-up can find an order already done.
CREATE FUNCTION order_step_exists(old order_status, new order_status) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE old
    WHEN 'queued'           THEN new IN ('submitted', 'denied', 'canceled')
    WHEN 'submitted'        THEN new IN ('accepted', 'partially_filled', 'filled', 'canceled', 'expired', 'rejected', 'denied')
    WHEN 'accepted'         THEN new IN ('partially_filled', 'pending_cancel', 'filled', 'canceled', 'expired', 'rejected')
    WHEN 'partially_filled' THEN new IN ('pending_cancel', 'filled', 'canceled', 'expired')
    WHEN 'pending_cancel'   THEN new IN ('accepted', 'partially_filled', 'filled', 'canceled', 'expired')
    ELSE false END $$;
COMMENT ON FUNCTION order_step_exists IS 'Which step may follow which. submitted -> denied: proved never to have reached the venue.';

CREATE OR REPLACE FUNCTION order_insert() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
  s strategy;
  ours boolean;
BEGIN
  SELECT * INTO s FROM strategy WHERE id = NEW.strategy_id;
  IF NOT FOUND THEN RETURN NEW; END IF;  -- the foreign key or NOT NULL says it better
  IF NEW.status <> 'queued' OR num_nonnulls(NEW.venue_order_id, NEW.sent_quantity, NEW.sent_quote_quantity, NEW.sent_price, NEW.hold_asset_id,
       NEW.hold_quantity, NEW.fence, NEW.submitted_at, NEW.receive_deadline, NEW.in_doubt_since, NEW.next_look_at, NEW.cancel_requested_at, NEW.reason) > 0
     OR (NEW.filled_quantity, NEW.filled_quote, NEW.realised, NEW.attempt, NEW.absences) <> (0, 0, 0, 0, 0) THEN
    RAISE EXCEPTION 'a new order starts as queued and empty: give only strategy, type, market, side, quantities, limit_price, expires_at'
      USING ERRCODE = 'restrict_violation';
  END IF;
  IF NEW.market_id IS NOT NULL THEN
    SELECT m.exchange_id = a.exchange_id INTO ours FROM market m, account a WHERE m.id = NEW.market_id AND a.id = s.account_id;
    IF NOT ours THEN
      RAISE EXCEPTION 'strategy % trades on account %, whose exchange does not have this market', s.name,
        (SELECT name FROM account WHERE id = s.account_id) USING ERRCODE = 'check_violation';
    END IF;
  END IF;
  NEW.account_id := s.account_id;
  NEW.created_at := clock_timestamp();
  NEW.updated_at := NEW.created_at;
  IF NEW.type IN ('deposit', 'withdrawal') THEN
    NEW.status := 'posted';
  ELSE
    NEW.expires_at := coalesce(NEW.expires_at, NEW.created_at + s.order_ttl);
  END IF;
  RETURN NEW;
END $$;
CREATE OR REPLACE FUNCTION order_update() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF process() = '' AND pg_trigger_depth() < 2 AND to_jsonb(NEW) - 'cancel_requested_at' <> to_jsonb(OLD) - 'cancel_requested_at' THEN
    RAISE EXCEPTION 'order %: what was asked is fixed once queued, and only a trader moves it on; to cancel it: UPDATE orders SET cancel_requested_at = now() WHERE id = %',
      OLD.id, OLD.id USING ERRCODE = 'restrict_violation';
  END IF;
  IF (NEW.id, NEW.strategy_id, NEW.account_id, NEW.type, NEW.side, NEW.market_id, NEW.asset_id, NEW.quantity, NEW.quote_quantity, NEW.limit_price,
      NEW.created_at, NEW.expires_at, NEW.bucket_time, NEW.client_order_id) IS DISTINCT FROM
     (OLD.id, OLD.strategy_id, OLD.account_id, OLD.type, OLD.side, OLD.market_id, OLD.asset_id, OLD.quantity, OLD.quote_quantity, OLD.limit_price,
      OLD.created_at, OLD.expires_at, OLD.bucket_time, OLD.client_order_id) THEN
    RAISE EXCEPTION 'order %: what was asked is fixed once queued; cancel it (SET cancel_requested_at = now()) and queue another', OLD.id
      USING ERRCODE = 'restrict_violation';
  END IF;
  IF (NEW.filled_quantity, NEW.filled_quote, NEW.realised) <> (OLD.filled_quantity, OLD.filled_quote, OLD.realised) AND pg_trigger_depth() < 2 THEN
    RAISE EXCEPTION 'order %: what is filled follows its fills', OLD.id USING ERRCODE = 'restrict_violation';
  END IF;
  IF OLD.cancel_requested_at IS NOT NULL AND NEW.cancel_requested_at IS DISTINCT FROM OLD.cancel_requested_at THEN
    RAISE EXCEPTION 'order %: its cancel is already requested (%)', OLD.id, OLD.cancel_requested_at USING ERRCODE = 'restrict_violation';
  END IF;
  IF NEW.cancel_requested_at IS DISTINCT FROM OLD.cancel_requested_at THEN
    IF order_is_final(OLD.status) THEN
      RAISE EXCEPTION 'order %: it is % and cannot be canceled any more', OLD.id, OLD.status USING ERRCODE = 'restrict_violation';
    END IF;
    IF NEW.cancel_requested_at NOT BETWEEN now() - interval '1 min' AND clock_timestamp() + interval '1 min' THEN
      RAISE EXCEPTION 'order %: cancel_requested_at is %: only now() will do, a cancel cannot be planned', OLD.id, NEW.cancel_requested_at
        USING ERRCODE = 'check_violation';
    END IF;
    IF OLD.status = 'queued' AND NEW.status = 'queued' THEN
      NEW.status := 'canceled';
      NEW.reason := 'canceled before it was sent';
    END IF;
  END IF;
  IF NEW.status <> OLD.status AND NOT order_step_exists(OLD.status, NEW.status) THEN
    RAISE EXCEPTION 'order %: % -> % is not a step', OLD.id, OLD.status, NEW.status USING ERRCODE = 'restrict_violation';
  END IF;
  IF OLD.status <> 'queued' AND (NEW.hold_asset_id, NEW.hold_quantity) IS DISTINCT FROM (OLD.hold_asset_id, OLD.hold_quantity) THEN
    RAISE EXCEPTION 'order %: what it reserved is fixed once submitted', OLD.id USING ERRCODE = 'restrict_violation';
  END IF;
  IF NEW.status = 'submitted' AND num_nonnulls(NEW.hold_asset_id, NEW.hold_quantity, NEW.fence, NEW.submitted_at, NEW.receive_deadline) < 5 THEN
    RAISE EXCEPTION 'order %: a submitted order has a hold, a fence, submitted_at and receive_deadline', OLD.id USING ERRCODE = 'check_violation';
  END IF;
  IF NEW.fence < OLD.fence THEN
    RAISE EXCEPTION 'order %: fence % is older than %', OLD.id, NEW.fence, OLD.fence USING ERRCODE = 'restrict_violation';
  END IF;
  IF NEW.status <> 'submitted' THEN
    NEW.in_doubt_since := NULL;
    NEW.next_look_at := NULL;
  END IF;
  NEW.updated_at := clock_timestamp();
  RETURN NEW;
END $$;
CREATE OR REPLACE FUNCTION order_event_insert() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  writer text := concat_ws(' ', session_user, nullif(current_setting('application_name'), ''));
BEGIN
  IF TG_OP = 'INSERT' THEN
    INSERT INTO order_event (order_id, to_status, attempt, reason, written_by)
      SELECT id, status, attempt, reason, writer FROM new_rows ORDER BY id;
    IF EXISTS (SELECT FROM new_rows WHERE status = 'queued') THEN
      PERFORM pg_notify('order_queued', '');  -- constant: one notification per transaction, however many rows
    END IF;
  ELSE
    INSERT INTO order_event (order_id, from_status, to_status, attempt, reason, written_by)
      SELECT n.id, o.status, n.status, n.attempt, n.reason, writer FROM new_rows n JOIN old_rows o USING (id)
       WHERE n.status <> o.status OR n.attempt <> o.attempt ORDER BY n.id;
    IF EXISTS (SELECT FROM new_rows n JOIN old_rows o USING (id)
                WHERE n.cancel_requested_at IS DISTINCT FROM o.cancel_requested_at AND NOT order_is_final(n.status)) THEN
      PERFORM pg_notify('order_cancel', '');
    END IF;
  END IF;
  RETURN NULL;
END $$;
CREATE OR REPLACE FUNCTION orders_insert() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
  s strategy;
  market int;
  asset_ smallint;
  written int := num_nonnulls(NEW.id, NEW.status, NEW.filled_quantity, NEW.average_price, NEW.filled_quote, NEW.realised, NEW.reason, NEW.created_at,
    NEW.submitted_at, NEW.cancel_requested_at, NEW.updated_at, NEW.account, NEW.client_order_id, NEW.venue_order_id);
BEGIN
  IF written > 0 THEN
    RAISE EXCEPTION 'give only strategy, type, side, market, asset, quantity, quote_quantity, limit_price, expires_at, bucket_time: the rest is kept by Tallydesk'
      USING ERRCODE = 'restrict_violation';
  END IF;
  SELECT * INTO s FROM strategy WHERE name = NEW.strategy;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'unknown strategy "%": there is %', coalesce(NEW.strategy, ''), coalesce((SELECT string_agg(name, ', ' ORDER BY name) FROM strategy),
      'none yet (tallydesk strategy add)') USING ERRCODE = 'foreign_key_violation';
  END IF;
  IF NEW.type IS NULL OR NEW.type NOT IN ('market', 'limit', 'deposit', 'withdrawal') THEN
    RAISE EXCEPTION 'unknown type "%": market, limit, deposit or withdrawal', coalesce(NEW.type, '') USING ERRCODE = 'check_violation';
  END IF;
  IF NEW.side NOT IN ('buy', 'sell') THEN
    RAISE EXCEPTION 'unknown side "%": buy or sell', NEW.side USING ERRCODE = 'check_violation';
  END IF;
  PERFORM check_amount('quantity', NEW.quantity), check_amount('quote_quantity', NEW.quote_quantity), check_amount('limit_price', NEW.limit_price);
  IF NEW.type IN ('deposit', 'withdrawal') THEN
    IF NEW.asset IS NULL OR NEW.quantity IS NULL OR num_nonnulls(NEW.side, NEW.market, NEW.quote_quantity, NEW.limit_price, NEW.bucket_time) > 0 THEN
      RAISE EXCEPTION 'a % names an asset and a quantity, and nothing else', NEW.type USING ERRCODE = 'check_violation';
    END IF;
    SELECT id INTO asset_ FROM asset WHERE code = NEW.asset;
    IF NOT FOUND THEN
      RAISE EXCEPTION 'unknown asset "%": known are %', NEW.asset, coalesce((SELECT string_agg(code, ', ' ORDER BY code) FROM (SELECT code FROM asset ORDER BY code LIMIT 8) few),
        'none yet (tallydesk market sync)') USING ERRCODE = 'foreign_key_violation';
    END IF;
  ELSE
    IF NEW.side IS NULL OR NEW.market IS NULL OR NEW.asset IS NOT NULL THEN
      RAISE EXCEPTION 'a % order names a side and a market, and no asset', NEW.type USING ERRCODE = 'check_violation';
    END IF;
    IF (NEW.type = 'limit') <> (NEW.limit_price IS NOT NULL) THEN
      RAISE EXCEPTION '%', CASE NEW.type WHEN 'limit' THEN 'a limit order needs a limit_price' ELSE 'a market order takes no limit_price; a limit order does' END USING ERRCODE = 'check_violation';
    END IF;
    IF num_nonnulls(NEW.quantity, NEW.quote_quantity) > 1 THEN
      RAISE EXCEPTION 'give quantity or quote_quantity or neither, not both' USING ERRCODE = 'check_violation';
    END IF;
    market := find_market(NEW.market, s);
  END IF;
  INSERT INTO "order" (strategy_id, type, side, market_id, asset_id, quantity, quote_quantity, limit_price, expires_at, bucket_time)
    VALUES (s.id, NEW.type::order_type, NEW.side::order_side, market, asset_, NEW.quantity, NEW.quote_quantity, NEW.limit_price, NEW.expires_at, NEW.bucket_time)
    RETURNING id, status, created_at, expires_at, client_order_id INTO NEW.id, NEW.status, NEW.created_at, NEW.expires_at, NEW.client_order_id;
  RETURN NEW;
END $$;
CREATE OR REPLACE FUNCTION fill_insert() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  m record;
BEGIN
  IF process() = '' THEN
    RAISE EXCEPTION 'INSERT on "fill" is refused: fills come from the venue' USING ERRCODE = 'restrict_violation';
  END IF;
  SELECT o.side, o.account_id, o.market_id, o.status, k.base_id, k.quote_id, k.exchange_id INTO m
    FROM "order" o JOIN market k ON k.id = o.market_id WHERE o.id = NEW.order_id;
  IF NOT FOUND OR m.status = 'queued' THEN
    RAISE EXCEPTION 'order %: it was never sent, so it has no fills', NEW.order_id USING ERRCODE = 'check_violation';
  END IF;
  NEW.side := m.side; NEW.account_id := m.account_id; NEW.market_id := m.market_id;
  NEW.quote := NEW.quantity * NEW.price;
  NEW.fee_value := NEW.fee * CASE WHEN NEW.fee = 0 OR NEW.fee_asset_id = m.quote_id THEN 1 WHEN NEW.fee_asset_id = m.base_id THEN NEW.price
                                  ELSE asset_price(NEW.fee_asset_id, m.quote_id, m.exchange_id) END;
  RETURN NEW;
END $$;

CREATE VIEW orders AS
  SELECT o.id, s.name AS strategy, o.status::text AS status, o.type::text AS type, o.side::text AS side,
         e.name || ':' || m.symbol AS market, a.code AS asset, trim_scale(o.quantity) AS quantity, trim_scale(o.quote_quantity) AS quote_quantity,
         trim_scale(o.limit_price) AS limit_price, trim_scale(o.filled_quantity) AS filled_quantity,
         round(o.filled_quote / nullif(o.filled_quantity, 0), 8) AS average_price, trim_scale(o.filled_quote) AS filled_quote,
         round(o.realised, 8) AS realised, o.reason, o.created_at, o.expires_at, o.bucket_time, o.submitted_at, o.cancel_requested_at, o.updated_at,
         c.name AS account, o.client_order_id, o.venue_order_id
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
    FROM external_fill x JOIN fill f ON (f.account_id, f.market_id, f.trade_id, f.side) = (x.account_id, x.market_id, x.trade_id, x.side);
COMMENT ON VIEW invariant_violation IS 'Everything that is kept, computed again from the facts, where the two differ. Always empty; reads the whole history.';
COMMENT ON COLUMN invariant_violation.rule IS 'What should hold.';
COMMENT ON COLUMN invariant_violation.what IS 'Where it does not.';
COMMENT ON COLUMN invariant_violation.kept IS 'What the kept row says.';
COMMENT ON COLUMN invariant_violation.facts IS 'What the facts say.';

GRANT SELECT ON orders, order_in_doubt, invariant_violation TO tallydesk_reader, tallydesk_user;
GRANT INSERT, UPDATE, DELETE ON orders TO tallydesk_user;
