-- Orders: the queue, the life of an order, its history, and the lanes through which traders claim.

CREATE TYPE order_type AS ENUM ('market', 'limit', 'deposit', 'withdrawal');
CREATE TYPE order_side AS ENUM ('buy', 'sell');
CREATE TYPE order_status AS ENUM ('queued', 'submitted', 'accepted', 'partially_filled', 'pending_cancel',
                                  'filled', 'canceled', 'expired', 'rejected', 'denied', 'posted');

CREATE TABLE "order" (
  id                   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  strategy_id          int NOT NULL REFERENCES strategy,
  status               order_status NOT NULL DEFAULT 'queued',
  type                 order_type NOT NULL,
  side                 order_side,
  market_id            int REFERENCES market,
  asset_id             smallint REFERENCES asset,
  quantity             positive_amount,
  quote_quantity       positive_amount,
  limit_price          positive_amount,
  filled_quantity      amount NOT NULL DEFAULT 0,
  filled_quote         amount NOT NULL DEFAULT 0,
  realised             amount NOT NULL DEFAULT 0,
  reason               text,
  created_at           timestamptz NOT NULL DEFAULT clock_timestamp(),
  expires_at           timestamptz,
  bucket_time          timestamptz,
  cancel_requested_at  timestamptz,
  updated_at           timestamptz NOT NULL DEFAULT clock_timestamp(),
  account_id           smallint NOT NULL REFERENCES account,
  client_order_id      uuid NOT NULL DEFAULT gen_random_uuid() UNIQUE,
  venue_order_id       text,
  sent_quantity        positive_amount,
  sent_quote_quantity  positive_amount,
  sent_price           positive_amount,
  hold_asset_id        smallint REFERENCES asset,
  hold_quantity        positive_amount,
  attempt              int NOT NULL DEFAULT 0,
  fence                bigint,
  submitted_at         timestamptz,
  receive_deadline     timestamptz,
  in_doubt_since       timestamptz,
  next_look_at         timestamptz,
  absences             int NOT NULL DEFAULT 0,
  CONSTRAINT a_deposit_or_withdrawal_names_an_asset_and_a_quantity_only CHECK (type IN ('market', 'limit')
    OR (asset_id IS NOT NULL AND quantity IS NOT NULL AND num_nonnulls(side, market_id, quote_quantity, limit_price, bucket_time) = 0)),
  CONSTRAINT a_market_or_limit_order_names_a_side_and_a_market_and_no_asset CHECK (type NOT IN ('market', 'limit')
    OR (num_nonnulls(side, market_id) = 2 AND asset_id IS NULL)),
  CONSTRAINT a_limit_order_has_a_limit_price_and_no_other_has CHECK ((type = 'limit') = (limit_price IS NOT NULL)),
  CONSTRAINT quantity_or_quote_quantity_or_neither CHECK (num_nonnulls(quantity, quote_quantity) < 2),
  CONSTRAINT expires_at_is_between_the_years_1970_and_9000 CHECK (expires_at BETWEEN '1970-01-01 00:00+00' AND '9000-01-01 00:00+00'),
  CONSTRAINT bucket_time_is_between_the_years_1970_and_9000 CHECK (bucket_time BETWEEN '1970-01-01 00:00+00' AND '9000-01-01 00:00+00'),
  CONSTRAINT one_order_per_strategy_and_candle UNIQUE (strategy_id, bucket_time)
);
CREATE INDEX order_queued ON "order" (strategy_id, id) WHERE status = 'queued';
CREATE INDEX order_submitted ON "order" (account_id, id) WHERE status = 'submitted';
CREATE INDEX order_open ON "order" (account_id, market_id) WHERE status IN ('accepted', 'partially_filled', 'pending_cancel');
CREATE UNIQUE INDEX order_venue_order_id ON "order" (account_id, market_id, venue_order_id) WHERE venue_order_id IS NOT NULL;
ALTER TABLE "order" SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
COMMENT ON TABLE "order" IS 'An intent and its life. Rows are kept for ever; what was asked is fixed once queued. People write to the view orders.';
COMMENT ON COLUMN "order".type IS 'market, limit, deposit or withdrawal.';
COMMENT ON COLUMN "order".side IS 'buy or sell; NULL for a deposit or withdrawal.';
COMMENT ON COLUMN "order".limit_price IS 'The worst price to trade at, in quote; a limit order''s only.';
COMMENT ON COLUMN "order".created_at IS 'When it was queued or posted.';
COMMENT ON COLUMN "order".updated_at IS 'When its row last changed.';
COMMENT ON COLUMN "order".status IS 'queued -> submitted -> accepted -> partially_filled -> filled; denied: refused by us; rejected: refused by the venue; posted: a deposit or withdrawal.';
COMMENT ON COLUMN "order".quantity IS 'Base to buy or sell, or the amount deposited or withdrawn. NULL with quote_quantity NULL: the strategy''s stake decides (buy), or all that it holds (sell).';
COMMENT ON COLUMN "order".quote_quantity IS 'Quote to spend (buy) or to raise (sell).';
COMMENT ON COLUMN "order".filled_quantity IS 'Base traded so far: the sum of its fills.';
COMMENT ON COLUMN "order".filled_quote IS 'Quote traded so far: the sum of its fills.';
COMMENT ON COLUMN "order".realised IS 'Profit realised by its fills, in quote, after fees, at average cost.';
COMMENT ON COLUMN "order".reason IS 'Why it was denied, rejected, canceled or is in doubt.';
COMMENT ON COLUMN "order".expires_at IS 'If no trader has seen it by then, it is denied as stale. Default: created_at + strategy.order_ttl.';
COMMENT ON COLUMN "order".bucket_time IS 'The close of the candle that it answers; at most one order per strategy and candle.';
COMMENT ON COLUMN "order".cancel_requested_at IS 'Set it to cancel the order. The fill may win.';
COMMENT ON COLUMN "order".client_order_id IS 'Our name for it at the venue.';
COMMENT ON COLUMN "order".venue_order_id IS 'The venue''s name for it.';
COMMENT ON COLUMN "order".sent_quantity IS 'Base quantity as sent: rounded to the market''s step.';
COMMENT ON COLUMN "order".sent_quote_quantity IS 'Quote quantity as sent (a market buy by quote).';
COMMENT ON COLUMN "order".sent_price IS 'Limit price as sent: rounded to the market''s tick, never to our harm.';
COMMENT ON COLUMN "order".hold_asset_id IS 'Which asset was reserved for it when it was claimed.';
COMMENT ON COLUMN "order".hold_quantity IS 'How much was reserved for it when it was claimed; see hold for what is left.';
COMMENT ON COLUMN "order".attempt IS 'How many times it was made ready to send.';
COMMENT ON COLUMN "order".fence IS 'Number of the claim that owns it: a trader with an older number may not write.';
COMMENT ON COLUMN "order".submitted_at IS 'The time stamp that its request is signed with.';
COMMENT ON COLUMN "order".receive_deadline IS 'After this the venue refuses the request, so "not found" becomes proof.';
COMMENT ON COLUMN "order".in_doubt_since IS 'Since when nobody can say whether it arrived; NULL: not in doubt.';
COMMENT ON COLUMN "order".next_look_at IS 'When a trader looks it up at the venue next.';
COMMENT ON COLUMN "order".absences IS 'How often the venue said "not found" after the receive deadline; 2 is proof.';

CREATE TABLE order_event (
  id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  order_id     bigint NOT NULL REFERENCES "order",
  at           timestamptz NOT NULL DEFAULT clock_timestamp(),
  from_status  order_status,
  to_status    order_status NOT NULL,
  attempt      int NOT NULL,
  reason       text,
  written_by   text NOT NULL
);
CREATE INDEX order_event_order ON order_event (order_id, id);
COMMENT ON TABLE order_event IS 'Every step of every order, written by the database in the same transaction.';
COMMENT ON COLUMN order_event.at IS 'When the step was taken.';
COMMENT ON COLUMN order_event.from_status IS 'NULL: the order was made.';
COMMENT ON COLUMN order_event.to_status IS 'The status that it led to.';
COMMENT ON COLUMN order_event.attempt IS 'How many times the order had been made ready to send by then.';
COMMENT ON COLUMN order_event.reason IS 'The order''s reason then.';
COMMENT ON COLUMN order_event.written_by IS 'The database user and application that took the step.';

CREATE SEQUENCE fence;
COMMENT ON SEQUENCE fence IS 'Numbers of claims: whoever has the highest number on an order or a lane owns it.';

CREATE TABLE lane (
  strategy_id  int PRIMARY KEY REFERENCES strategy,
  account_id   smallint NOT NULL REFERENCES account,
  owner        uuid,
  fence        bigint NOT NULL DEFAULT 0,
  lease_until  timestamptz NOT NULL DEFAULT '-infinity',
  served_at    timestamptz NOT NULL DEFAULT '-infinity'
) WITH (fillfactor = 30, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
COMMENT ON TABLE lane IS 'One row per strategy: which trader may claim its orders now. Claiming costs by lanes, never by backlog.';
COMMENT ON COLUMN lane.owner IS 'The instance (role.instance) of the trader that serves the lane.';
COMMENT ON COLUMN lane.fence IS 'Rises with every claim; orders carry the number of theirs.';
COMMENT ON COLUMN lane.lease_until IS 'Until when the owner has the lane for itself, unless it dies before.';
COMMENT ON COLUMN lane.served_at IS 'When it was last served: the least recent comes first.';

CREATE FUNCTION strategy_lane() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
  INSERT INTO lane (strategy_id, account_id) VALUES (NEW.id, NEW.account_id);
  RETURN NULL;
END $$;
CREATE TRIGGER strategy_lane AFTER INSERT ON strategy FOR EACH ROW EXECUTE FUNCTION strategy_lane();
CREATE TRIGGER follows BEFORE INSERT OR DELETE ON lane FOR EACH STATEMENT EXECUTE FUNCTION only_from_triggers('it follows strategies');
CREATE TRIGGER lent BEFORE UPDATE ON lane FOR EACH STATEMENT
  EXECUTE FUNCTION only_from_processes('traders lend it; to hold orders back: UPDATE strategy SET enabled = false WHERE name = ...');
CREATE TRIGGER kept BEFORE TRUNCATE ON lane FOR EACH STATEMENT EXECUTE FUNCTION refuse('it follows strategies');

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

-- The search path is fixed wherever tables are read: a temporary table of the same name must not answer.
CREATE FUNCTION order_insert() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
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
CREATE TRIGGER order_insert BEFORE INSERT ON "order" FOR EACH ROW EXECUTE FUNCTION order_insert();

CREATE FUNCTION order_update() RETURNS trigger LANGUAGE plpgsql AS $$
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
CREATE TRIGGER order_update BEFORE UPDATE ON "order" FOR EACH ROW EXECUTE FUNCTION order_update();
CREATE TRIGGER order_kept BEFORE DELETE OR TRUNCATE ON "order" FOR EACH STATEMENT
  EXECUTE FUNCTION refuse('orders are kept; to cancel one: UPDATE orders SET cancel_requested_at = now() WHERE id = ...');

CREATE FUNCTION order_event_insert() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
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
CREATE TRIGGER order_event_insert AFTER INSERT ON "order" REFERENCING NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION order_event_insert();
CREATE TRIGGER order_event_update AFTER UPDATE ON "order" REFERENCING NEW TABLE AS new_rows OLD TABLE AS old_rows
  FOR EACH STATEMENT EXECUTE FUNCTION order_event_insert();
CREATE TRIGGER follows BEFORE INSERT ON order_event FOR EACH STATEMENT EXECUTE FUNCTION only_from_triggers('it follows the orders');
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON order_event FOR EACH STATEMENT EXECUTE FUNCTION refuse('it is append-only');

-- The view that people write to: names instead of numbers, and an error for each thing that can be wrong.
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

CREATE FUNCTION check_amount(field text, value numeric) RETURNS void LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  IF value <= 0 OR value IN ('NaN', 'Infinity') THEN
    RAISE EXCEPTION '% is %: it must be a finite number above zero', field, value USING ERRCODE = 'check_violation';
  ELSIF value >= 1e20 THEN
    RAISE EXCEPTION '% is %: it must be below 1e20', field, value USING ERRCODE = 'check_violation';
  ELSIF value < 1e-18 THEN
    RAISE EXCEPTION '% is %: the least is 0.000000000000000001', field, value USING ERRCODE = 'check_violation';
  END IF;
END $$;
COMMENT ON FUNCTION check_amount IS 'Raises an error that names the field if the value is no positive_amount. NULL passes.';

CREATE FUNCTION find_market(p_market text, s strategy) RETURNS int LANGUAGE plpgsql STABLE SET search_path = public, pg_temp AS $$
DECLARE
  found int;
  here text;
BEGIN
  -- No exchange has a colon in its name: the first one ends it. So an index finds the market.
  SELECT m.id INTO found FROM market m JOIN exchange e ON e.id = m.exchange_id
   WHERE e.name = split_part(p_market, ':', 1) AND m.symbol = substr(p_market, strpos(p_market, ':') + 1) AND p_market LIKE '%:%';
  IF found IS NULL THEN
    SELECT e.name INTO here FROM account a JOIN exchange e ON e.id = a.exchange_id WHERE a.id = s.account_id;
    RAISE EXCEPTION 'unknown market "%": write exchange:symbol; % has %', p_market, here, coalesce((SELECT string_agg(format('%s:%s', here, symbol), ', ' ORDER BY symbol)
      FROM (SELECT symbol FROM market m JOIN account a USING (exchange_id) WHERE a.id = s.account_id ORDER BY symbol LIMIT 5) few),
      'no market yet (tallydesk market sync)') USING ERRCODE = 'foreign_key_violation';
  END IF;
  RETURN found;
END $$;
COMMENT ON FUNCTION find_market IS 'The id of a market named as exchange:symbol; an error that lists some if there is none.';

CREATE FUNCTION orders_insert() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
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
CREATE TRIGGER orders_insert INSTEAD OF INSERT ON orders FOR EACH ROW EXECUTE FUNCTION orders_insert();

CREATE FUNCTION orders_change() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
  column_ text;
BEGIN
  IF TG_OP = 'DELETE' THEN
    RAISE EXCEPTION 'orders are kept; to cancel one: UPDATE orders SET cancel_requested_at = now() WHERE id = %', OLD.id USING ERRCODE = 'restrict_violation';
  END IF;
  SELECT n.key INTO column_ FROM jsonb_each(to_jsonb(NEW)) n JOIN jsonb_each(to_jsonb(OLD)) o USING (key)
   WHERE n.value IS DISTINCT FROM o.value AND key <> 'cancel_requested_at' LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION 'order %: % cannot be changed; to cancel it: UPDATE orders SET cancel_requested_at = now() WHERE id = %', OLD.id, column_, OLD.id
      USING ERRCODE = 'restrict_violation';
  END IF;
  UPDATE "order" SET cancel_requested_at = NEW.cancel_requested_at WHERE id = OLD.id;
  RETURN NEW;
END $$;
CREATE TRIGGER orders_change INSTEAD OF UPDATE OR DELETE ON orders FOR EACH ROW EXECUTE FUNCTION orders_change();
