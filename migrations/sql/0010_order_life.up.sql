-- The rest of an order's life: orders that wait for a price, for another order or for their turn in a group, and time in force.
-- `waiting` cannot be named in the transaction that adds it: `status < 'queued'` says it where a statement here is run at once.

ALTER TYPE order_status ADD VALUE 'waiting' BEFORE 'queued';
CREATE TYPE time_in_force AS ENUM ('GTC', 'IOC', 'FOK', 'PO');
CREATE TYPE trigger_when AS ENUM ('rises', 'falls');

ALTER TABLE "order"
  ADD COLUMN time_in_force time_in_force,
  ADD COLUMN trigger_price positive_amount,
  ADD COLUMN trigger_when trigger_when,
  ADD COLUMN triggered_at timestamptz,
  ADD COLUMN after_id bigint REFERENCES "order",
  ADD COLUMN parent_id bigint REFERENCES "order",
  ADD CONSTRAINT only_a_limit_order_has_a_time_in_force CHECK (time_in_force IS NULL OR type = 'limit'),
  ADD CONSTRAINT trigger_when_and_triggered_at_need_a_trigger_price CHECK (trigger_price IS NOT NULL OR num_nonnulls(trigger_when, triggered_at) = 0),
  ADD CONSTRAINT a_deposit_or_withdrawal_waits_for_nothing CHECK (type IN ('market', 'limit') OR num_nonnulls(trigger_price, after_id, parent_id) = 0);
CREATE INDEX order_waiting ON "order" (account_id, id) WHERE status < 'queued';
CREATE INDEX order_after ON "order" (after_id) WHERE after_id IS NOT NULL;
CREATE INDEX order_parent ON "order" (parent_id) WHERE parent_id IS NOT NULL;
COMMENT ON COLUMN "order".status IS 'waiting -> queued -> submitted -> accepted -> partially_filled -> filled; waiting: not due yet; denied: refused by us; rejected: refused by the venue; posted: a deposit or withdrawal.';
COMMENT ON COLUMN "order".expires_at IS 'If no trader has seen it by then, it is denied as stale; one that still waits then is expired. Default: order_ttl of its strategy after it was queued.';
COMMENT ON COLUMN "order".time_in_force IS 'A limit order''s: GTC (rests until canceled, the default), IOC (what does not trade at once expires), FOK (all at once or nothing), PO (only rests: rejected if it would trade at once). NULL: GTC.';
COMMENT ON COLUMN "order".trigger_price IS 'It waits here, unknown to the venue, until the last price comes to this; then it is queued.';
COMMENT ON COLUMN "order".trigger_when IS 'rises: due at or above trigger_price; falls: at or below. NULL: a trader decides by the price at its first look and writes it down.';
COMMENT ON COLUMN "order".triggered_at IS 'When the price had come to trigger_price.';
COMMENT ON COLUMN "order".after_id IS 'It waits until that order has ended: queued if that filled anything, else canceled.';
COMMENT ON COLUMN "order".parent_id IS 'Orders with the same parent are a group, of which one cancels the others: the first fill of one asks for the cancel of the rest.';

SET check_function_bodies = off;
CREATE OR REPLACE FUNCTION order_step_exists(old order_status, new order_status) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE old
    WHEN 'waiting'          THEN new IN ('queued', 'canceled', 'denied', 'expired')
    WHEN 'queued'           THEN new IN ('submitted', 'denied', 'canceled')
    WHEN 'submitted'        THEN new IN ('accepted', 'partially_filled', 'filled', 'canceled', 'expired', 'rejected', 'denied')
    WHEN 'accepted'         THEN new IN ('partially_filled', 'pending_cancel', 'filled', 'canceled', 'expired', 'rejected')
    WHEN 'partially_filled' THEN new IN ('pending_cancel', 'filled', 'canceled', 'expired')
    WHEN 'pending_cancel'   THEN new IN ('accepted', 'partially_filled', 'filled', 'canceled', 'expired')
    ELSE false END $$;
RESET check_function_bodies;

CREATE FUNCTION order_chain(p_after bigint) RETURNS int LANGUAGE sql STABLE SET search_path = public, pg_temp AS $$
  WITH RECURSIVE chain AS (
    SELECT after_id FROM "order" WHERE id = p_after AND status < 'queued'
    UNION ALL SELECT o.after_id FROM chain c JOIN "order" o ON o.id = c.after_id WHERE o.status < 'queued')
  SELECT count(*)::int FROM chain $$;
COMMENT ON FUNCTION order_chain IS 'How many orders, this one included, wait one for the other. A chain has no ring: an order names only older ones.';

CREATE OR REPLACE FUNCTION order_insert() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
  s strategy;
  ours boolean;
  named record;
BEGIN
  SELECT * INTO s FROM strategy WHERE id = NEW.strategy_id;
  IF NOT FOUND THEN RETURN NEW; END IF;  -- the foreign key or NOT NULL says it better
  IF NEW.status <> 'queued' OR num_nonnulls(NEW.venue_order_id, NEW.sent_quantity, NEW.sent_quote_quantity, NEW.sent_price, NEW.hold_asset_id,
       NEW.hold_quantity, NEW.fence, NEW.submitted_at, NEW.receive_deadline, NEW.in_doubt_since, NEW.next_look_at, NEW.cancel_requested_at, NEW.triggered_at, NEW.reason) > 0
     OR (NEW.filled_quantity, NEW.filled_quote, NEW.realised, NEW.attempt, NEW.absences) <> (0, 0, 0, 0, 0) THEN
    RAISE EXCEPTION 'a new order starts as queued and empty: give only strategy, type, market, side, quantities, limit_price, time_in_force, trigger_price, trigger_when, after_id, parent_id, expires_at'
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
    RETURN NEW;
  END IF;
  IF NEW.type = 'limit' THEN
    NEW.time_in_force := coalesce(NEW.time_in_force, 'GTC');
  END IF;
  IF num_nonnulls(NEW.trigger_price, NEW.after_id, NEW.parent_id) = 0 THEN
    NEW.expires_at := coalesce(NEW.expires_at, NEW.created_at + s.order_ttl);
    RETURN NEW;
  END IF;
  NEW.status := 'waiting';  -- order_follow queues it at once if there is nothing to wait for
  -- Locked, so that whatever they do next sees this order, or this order sees it.
  PERFORM FROM "order" WHERE id IN (NEW.after_id, NEW.parent_id) OR parent_id = NEW.parent_id ORDER BY id FOR SHARE;
  FOR named IN SELECT x.field, x.id, o.id IS NOT NULL AS found, o.strategy_id, o.type
                 FROM (VALUES ('after_id', NEW.after_id), ('parent_id', NEW.parent_id)) x (field, id) LEFT JOIN "order" o ON o.id = x.id AND o.id <> NEW.id
                WHERE x.id IS NOT NULL LOOP
    IF NOT named.found THEN
      RAISE EXCEPTION '% is %: there is no such order yet; it must be queued before', named.field, named.id USING ERRCODE = 'foreign_key_violation';
    ELSIF named.strategy_id <> NEW.strategy_id THEN
      RAISE EXCEPTION '% is %: that order is another strategy''s; it must be one of strategy %', named.field, named.id, s.name USING ERRCODE = 'check_violation';
    ELSIF named.type NOT IN ('market', 'limit') THEN
      RAISE EXCEPTION '% is %: that is a %; it must be a market or limit order', named.field, named.id, named.type USING ERRCODE = 'check_violation';
    END IF;
  END LOOP;
  IF order_chain(NEW.after_id) >= 50 THEN  -- each is ended by the one before, one inside the other
    RAISE EXCEPTION 'after_id is %: 50 orders wait in that chain already; no more may', NEW.after_id USING ERRCODE = 'check_violation';
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
      NEW.created_at, NEW.bucket_time, NEW.client_order_id, NEW.time_in_force, NEW.trigger_price, NEW.after_id, NEW.parent_id) IS DISTINCT FROM
     (OLD.id, OLD.strategy_id, OLD.account_id, OLD.type, OLD.side, OLD.market_id, OLD.asset_id, OLD.quantity, OLD.quote_quantity, OLD.limit_price,
      OLD.created_at, OLD.bucket_time, OLD.client_order_id, OLD.time_in_force, OLD.trigger_price, OLD.after_id, OLD.parent_id)
     OR NEW.expires_at IS DISTINCT FROM OLD.expires_at
     OR (NEW.trigger_when IS DISTINCT FROM OLD.trigger_when AND (OLD.trigger_when IS NOT NULL OR OLD.status <> 'waiting')) THEN
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
    IF OLD.status IN ('waiting', 'queued') AND NEW.status = OLD.status THEN
      NEW.status := 'canceled';
      NEW.reason := 'canceled before it was sent';
    END IF;
  END IF;
  IF NEW.status <> OLD.status AND NOT order_step_exists(OLD.status, NEW.status) THEN
    RAISE EXCEPTION 'order %: % -> % is not a step', OLD.id, OLD.status, NEW.status USING ERRCODE = 'restrict_violation';
  END IF;
  IF NEW.triggered_at IS DISTINCT FROM OLD.triggered_at AND (OLD.triggered_at IS NOT NULL OR OLD.status <> 'waiting') THEN
    RAISE EXCEPTION 'order %: it triggers once, while it waits', OLD.id USING ERRCODE = 'restrict_violation';
  END IF;
  IF OLD.status = 'waiting' AND NEW.status = 'queued' THEN  -- from now on it can grow stale
    NEW.expires_at := coalesce(NEW.expires_at, (SELECT clock_timestamp() + s.order_ttl FROM public.strategy s WHERE s.id = NEW.strategy_id));
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
    IF EXISTS (SELECT FROM new_rows n JOIN old_rows o USING (id) WHERE n.status = 'queued' AND o.status = 'waiting') THEN
      PERFORM pg_notify('order_queued', '');
    END IF;
  END IF;
  RETURN NULL;
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
  IF NOT FOUND OR m.status IN ('waiting', 'queued') THEN
    RAISE EXCEPTION 'order %: it was never sent, so it has no fills', NEW.order_id USING ERRCODE = 'check_violation';
  END IF;
  NEW.side := m.side; NEW.account_id := m.account_id; NEW.market_id := m.market_id;
  NEW.quote := NEW.quantity * NEW.price;
  NEW.fee_value := NEW.fee * CASE WHEN NEW.fee = 0 OR NEW.fee_asset_id = m.quote_id THEN 1 WHEN NEW.fee_asset_id = m.base_id THEN NEW.price
                                  ELSE asset_price(NEW.fee_asset_id, m.quote_id, m.exchange_id) END;
  RETURN NEW;
END $$;

-- What an order's step means for those that wait for it, and for its group. Two that end at once wait for each other's row here, so that
-- the later one sees what the earlier did.
CREATE FUNCTION order_follow() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  moved record;
  ready bigint[];
BEGIN
  IF TG_OP = 'INSERT' THEN
    SELECT array_agg(id ORDER BY id) INTO ready FROM new_rows WHERE status = 'waiting';
  ELSE
    FOR moved IN SELECT n.id, n.parent_id, n.triggered_at IS DISTINCT FROM o.triggered_at AS triggered FROM new_rows n JOIN old_rows o USING (id)
              WHERE n.parent_id IS NOT NULL AND (o.filled_quantity = 0 AND n.filled_quantity > 0 OR n.triggered_at IS DISTINCT FROM o.triggered_at) ORDER BY n.id LOOP
      PERFORM FROM "order" WHERE parent_id = moved.parent_id ORDER BY id FOR NO KEY UPDATE;
      UPDATE "order" g SET cancel_requested_at = clock_timestamp(), status = CASE WHEN g.status IN ('waiting', 'queued') THEN 'canceled' ELSE g.status END,
             reason = CASE WHEN g.status IN ('waiting', 'queued') THEN format('order %s of its group has %s', moved.id, CASE WHEN moved.triggered THEN 'triggered' ELSE 'traded' END) ELSE g.reason END
       WHERE g.parent_id = moved.parent_id AND g.id <> moved.id AND NOT order_is_final(g.status) AND g.cancel_requested_at IS NULL
         -- One that has triggered goes on with what is left, unless the other is filled; one that waits for its price stays when another triggers.
         AND NOT (g.status = 'waiting' AND (moved.triggered OR g.triggered_at IS NOT NULL));
    END LOOP;
    SELECT array_agg(DISTINCT w.id ORDER BY w.id) INTO ready
      FROM new_rows n JOIN old_rows o USING (id)
      CROSS JOIN LATERAL (SELECT n.id WHERE n.status = 'waiting' AND n.triggered_at IS DISTINCT FROM o.triggered_at
                          UNION ALL SELECT a.id FROM "order" a WHERE a.after_id = n.id AND a.status = 'waiting' AND order_is_final(n.status) AND NOT order_is_final(o.status)
                          UNION ALL SELECT g.id FROM "order" g WHERE g.parent_id = n.parent_id AND g.status = 'waiting' AND order_is_final(n.status) AND NOT order_is_final(o.status)) w;
  END IF;
  IF ready IS NOT NULL THEN
    PERFORM order_release(ready);
  END IF;
  RETURN NULL;
END $$;

CREATE FUNCTION order_release(p_orders bigint[]) RETURNS void LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
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
COMMENT ON FUNCTION order_release IS 'Queue those of the waiting orders that are due, end those that never will be.';
CREATE TRIGGER order_follow_insert AFTER INSERT ON "order" REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION order_follow();
CREATE TRIGGER order_follow_update AFTER UPDATE ON "order" REFERENCING NEW TABLE AS new_rows OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION order_follow();

CREATE OR REPLACE VIEW orders AS
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
DO $$
DECLARE
  c record;
BEGIN
  FOR c IN SELECT v.attname AS name, col_description('"order"'::regclass, o.attnum) AS meaning FROM pg_attribute v JOIN pg_attribute o USING (attname)
            WHERE v.attrelid = 'orders'::regclass AND o.attrelid = '"order"'::regclass AND v.attnum > 0 AND o.attnum > 0 LOOP
    EXECUTE format('COMMENT ON COLUMN orders.%I IS %L', c.name, c.meaning);
  END LOOP;
END $$;

CREATE OR REPLACE FUNCTION orders_insert() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
  s strategy;
  market int;
  asset_ smallint;
  written int := num_nonnulls(NEW.id, NEW.status, NEW.filled_quantity, NEW.average_price, NEW.filled_quote, NEW.realised, NEW.reason, NEW.created_at,
    NEW.submitted_at, NEW.cancel_requested_at, NEW.updated_at, NEW.account, NEW.client_order_id, NEW.venue_order_id, NEW.triggered_at);
BEGIN
  IF written > 0 THEN
    RAISE EXCEPTION 'give only strategy, type, side, market, asset, quantity, quote_quantity, limit_price, time_in_force, trigger_price, trigger_when, after_id, parent_id, expires_at, bucket_time: the rest is kept by Tallydesk'
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
  IF NEW.time_in_force NOT IN ('GTC', 'IOC', 'FOK', 'PO') THEN
    RAISE EXCEPTION 'unknown time_in_force "%": GTC, IOC, FOK or PO', NEW.time_in_force USING ERRCODE = 'check_violation';
  END IF;
  IF NEW.trigger_when NOT IN ('rises', 'falls') THEN
    RAISE EXCEPTION 'unknown trigger_when "%": rises or falls', NEW.trigger_when USING ERRCODE = 'check_violation';
  END IF;
  PERFORM check_amount('quantity', NEW.quantity), check_amount('quote_quantity', NEW.quote_quantity), check_amount('limit_price', NEW.limit_price),
    check_amount('trigger_price', NEW.trigger_price);
  IF NEW.type IN ('deposit', 'withdrawal') THEN
    IF NEW.asset IS NULL OR NEW.quantity IS NULL OR num_nonnulls(NEW.side, NEW.market, NEW.quote_quantity, NEW.limit_price, NEW.bucket_time,
         NEW.time_in_force, NEW.trigger_price, NEW.trigger_when, NEW.after_id, NEW.parent_id) > 0 THEN
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
    IF NEW.type <> 'limit' AND NEW.time_in_force IS NOT NULL THEN
      RAISE EXCEPTION 'time_in_force is %: only a limit order has one', NEW.time_in_force USING ERRCODE = 'check_violation';
    END IF;
    IF NEW.trigger_when IS NOT NULL AND NEW.trigger_price IS NULL THEN
      RAISE EXCEPTION 'trigger_when is %: it needs a trigger_price', NEW.trigger_when USING ERRCODE = 'check_violation';
    END IF;
    IF num_nonnulls(NEW.quantity, NEW.quote_quantity) > 1 THEN
      RAISE EXCEPTION 'give quantity or quote_quantity or neither, not both' USING ERRCODE = 'check_violation';
    END IF;
    market := find_market(NEW.market, s);
  END IF;
  INSERT INTO "order" (strategy_id, type, side, market_id, asset_id, quantity, quote_quantity, limit_price, expires_at, bucket_time,
                       time_in_force, trigger_price, trigger_when, after_id, parent_id)
    VALUES (s.id, NEW.type::order_type, NEW.side::order_side, market, asset_, NEW.quantity, NEW.quote_quantity, NEW.limit_price, NEW.expires_at, NEW.bucket_time,
            NEW.time_in_force::time_in_force, NEW.trigger_price, NEW.trigger_when::trigger_when, NEW.after_id, NEW.parent_id)
    RETURNING id, status, created_at, expires_at, client_order_id INTO NEW.id, NEW.status, NEW.created_at, NEW.expires_at, NEW.client_order_id;
  RETURN NEW;
END $$;

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

REVOKE EXECUTE ON FUNCTION order_follow() FROM PUBLIC;
GRANT INSERT (time_in_force, trigger_price, trigger_when, after_id, parent_id) ON "order" TO tallydesk_user;
