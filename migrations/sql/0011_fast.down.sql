-- The functions as 0005, 0009 and 0010 made them.
DO $$
DECLARE
  text_ text := pg_get_viewdef('invariant_violation');
BEGIN  -- what was added to it is its last part
  EXECUTE 'CREATE OR REPLACE VIEW invariant_violation AS ' || left(text_, length(text_) - strpos(reverse(text_), reverse('UNION ALL')) - 8);
END $$;
DROP VIEW orphan;

DROP TRIGGER order_inserted ON "order";
DROP TRIGGER order_updated ON "order";
DROP FUNCTION order_inserted(), order_updated(), order_follow(bigint[], bigint[], bigint[]), order_post(bigint[]), order_unallocated(bigint[]), written_by();

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
    IF EXISTS (SELECT FROM new_rows n JOIN old_rows o USING (id) WHERE n.status = 'queued' AND o.status = 'waiting') THEN
      PERFORM pg_notify('order_queued', '');
    END IF;
  END IF;
  RETURN NULL;
END $$;

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

CREATE FUNCTION order_hold() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
  INSERT INTO hold (order_id, ledger_account_id, asset_id, quantity)
    SELECT n.id, l.id, n.hold_asset_id, n.hold_quantity FROM new_rows n JOIN old_rows o USING (id) JOIN ledger_account l ON l.strategy_id = n.strategy_id
     WHERE o.status = 'queued' AND n.status = 'submitted';
  DELETE FROM hold h USING new_rows n JOIN old_rows o USING (id)
    WHERE h.order_id = n.id AND order_is_final(n.status) AND NOT order_is_final(o.status);
  RETURN NULL;
END $$;

CREATE FUNCTION order_post() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  o record;
  free numeric;
  price numeric;
  worth numeric;
  equity_ numeric;
  units_ numeric;
  unit_value_ numeric;
BEGIN
  FOR o IN SELECT n.id, n.account_id, n.strategy_id, n.type, n.asset_id, n.quantity, s.name, s.unit_id, a.code, c.exchange_id, l.id AS ledger_account_id, u.id AS unallocated_id
             FROM new_rows n JOIN strategy s ON s.id = n.strategy_id JOIN asset a ON a.id = n.asset_id JOIN account c ON c.id = s.account_id
             JOIN ledger_account l ON l.strategy_id = s.id JOIN ledger_account u ON u.account_id = s.account_id AND u.kind = 'unallocated'
            WHERE n.type IN ('deposit', 'withdrawal') ORDER BY n.account_id, n.strategy_id, n.id LOOP
    -- All of an account's take from one balance, unallocated: one transaction after the other, or two would wait for each other.
    PERFORM pg_advisory_xact_lock(hashtextextended('deposit:' || o.account_id, 0));
    PERFORM FROM balance WHERE ledger_account_id = o.ledger_account_id ORDER BY asset_id FOR UPDATE;
    SELECT total - held INTO free FROM balance WHERE ledger_account_id = o.ledger_account_id AND asset_id = o.asset_id;
    IF o.type = 'withdrawal' AND coalesce(free, 0) < o.quantity THEN
      RAISE EXCEPTION 'strategy % can withdraw at most % %, not %', o.name, trim_scale(greatest(coalesce(free, 0), 0)), o.code, trim_scale(o.quantity)
        USING ERRCODE = 'check_violation', HINT = 'What open orders hold is not free: select * from allowance;';
    END IF;
    price := asset_price(o.asset_id, o.unit_id, o.exchange_id);
    IF price IS NULL THEN
      RAISE EXCEPTION 'strategy %: nobody knows what % is worth yet; deposit % or import candles of a market between the two first', o.name, o.code,
        (SELECT code FROM asset WHERE id = o.unit_id) USING ERRCODE = 'check_violation';
    END IF;
    worth := CASE o.type WHEN 'deposit' THEN 1 ELSE -1 END * o.quantity * price;
    SELECT equity INTO equity_ FROM strategy_equity(o.strategy_id);
    SELECT coalesce(sum(units), 0) INTO units_ FROM flow WHERE strategy_id = o.strategy_id;
    SELECT unit_value INTO unit_value_ FROM flow WHERE strategy_id = o.strategy_id ORDER BY order_id DESC LIMIT 1;
    unit_value_ := CASE WHEN units_ > 0 AND equity_ > 0 THEN equity_ / units_ WHEN units_ > 0 THEN 1 ELSE coalesce(unit_value_, 1) END;
    INSERT INTO flow (order_id, strategy_id, value, equity, units, unit_value)  -- rounded: each division would add digits for ever
      VALUES (o.id, o.strategy_id, worth, equity_,
        round(CASE WHEN units_ > 0 AND equity_ > 0 THEN worth * units_ / equity_ ELSE worth / unit_value_ END, 30), round(unit_value_, 30));
    INSERT INTO ledger (kind, from_id, to_id, asset_id, quantity, order_id) VALUES (o.type::text::ledger_kind,
      CASE o.type WHEN 'deposit' THEN o.unallocated_id ELSE o.ledger_account_id END,
      CASE o.type WHEN 'deposit' THEN o.ledger_account_id ELSE o.unallocated_id END, o.asset_id, o.quantity, o.id);
    PERFORM position_deposit(o.strategy_id, o.asset_id, o.quantity * sign(worth), worth, o.unit_id, o.exchange_id);
  END LOOP;
  RETURN NULL;
END $$;

CREATE FUNCTION order_unallocated() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  short record;
BEGIN
  SELECT c.name, a.code, b.total, sum(n.quantity) AS asked INTO short FROM new_rows n JOIN account c ON c.id = n.account_id AND c.opened_at IS NOT NULL
    JOIN asset a ON a.id = n.asset_id JOIN ledger_account l ON l.account_id = c.id AND l.kind = 'unallocated'
    JOIN balance b ON b.ledger_account_id = l.id AND b.asset_id = n.asset_id
   WHERE n.type = 'deposit' AND b.total < 0 GROUP BY 1, 2, 3 LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION 'account % has % % that no strategy was given yet, not %', short.name, trim_scale(greatest(short.total + short.asked, 0)), short.code,
      trim_scale(short.asked) USING ERRCODE = 'check_violation', HINT = 'Pay in at the venue and wait until select * from reconciliation shows it as unallocated, or withdraw from another strategy.';
  END IF;
  RETURN NULL;
END $$;
COMMENT ON FUNCTION order_unallocated IS 'Trigger: a deposit gives out what is at the venue and nobody''s yet. It runs after order_post, by its name.';

CREATE OR REPLACE FUNCTION fill_post() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  f record;
  p "position";  -- the one that the loop is at
  kept "position"[] := '{}';  -- those that it is done with
  fee_base numeric;
  fee_cash numeric;
  share numeric;
  gain numeric;
  orders bigint[] := '{}';
  gains numeric[] := '{}';
BEGIN
  IF NOT EXISTS (SELECT FROM new_rows) THEN RETURN NULL; END IF;
  INSERT INTO ledger (kind, from_id, to_id, asset_id, quantity, order_id, fill_id)
    SELECT x.kind::ledger_kind, CASE WHEN x.delta < 0 THEN l.id ELSE w.id END, CASE WHEN x.delta < 0 THEN w.id ELSE l.id END, x.asset_id, abs(x.delta), n.order_id, n.id
      FROM new_rows n JOIN "order" o ON o.id = n.order_id JOIN market m ON m.id = n.market_id JOIN ledger_account l ON l.strategy_id = o.strategy_id
     CROSS JOIN LATERAL (VALUES ('trade', 'venue', m.base_id, CASE n.side WHEN 'buy' THEN n.quantity ELSE -n.quantity END),
                                ('trade', 'venue', m.quote_id, CASE n.side WHEN 'buy' THEN -n.quote ELSE n.quote END),
                                ('fee', 'fees', n.fee_asset_id, -n.fee)) x (kind, other, asset_id, delta)
      JOIN ledger_account w ON w.account_id = n.account_id AND w.kind = x.other::ledger_account_kind
     WHERE round(x.delta, 18) <> 0 ORDER BY n.id, x.asset_id;
  -- Average cost depends on the order of the fills: reckoned one by one, written once for each position.
  INSERT INTO position (strategy_id, market_id)
    SELECT DISTINCT o.strategy_id, n.market_id FROM new_rows n JOIN "order" o ON o.id = n.order_id ORDER BY 1, 2 ON CONFLICT DO NOTHING;
  FOR f IN SELECT n.*, o.strategy_id, m.base_id FROM new_rows n JOIN "order" o ON o.id = n.order_id JOIN market m ON m.id = n.market_id
            ORDER BY o.strategy_id, n.market_id, n.id LOOP
    IF (f.strategy_id, f.market_id) IS DISTINCT FROM (p.strategy_id, p.market_id) THEN
      IF p.strategy_id IS NOT NULL THEN kept := kept || p; END IF;
      SELECT * INTO p FROM position WHERE strategy_id = f.strategy_id AND market_id = f.market_id FOR UPDATE;
    END IF;
    fee_base := CASE WHEN f.fee_asset_id = f.base_id THEN f.fee ELSE 0 END;  -- a fee in base is in the quantity already
    fee_cash := CASE WHEN fee_base = 0 THEN coalesce(f.fee_value, 0) ELSE 0 END;
    gain := 0;
    IF f.side = 'buy' THEN
      p.quantity := p.quantity + f.quantity - fee_base;
      p.cost := p.cost + f.quote + fee_cash;
    ELSE
      share := CASE WHEN p.quantity > 0 THEN least(1, (f.quantity + fee_base) / p.quantity) ELSE 1 END;
      gain := round(f.quote - fee_cash - p.cost * share, 18);
      p.quantity := p.quantity - f.quantity - fee_base;
      p.cost := p.cost - p.cost * share;
      p.realised := p.realised + gain;
    END IF;
    p.fees := p.fees + coalesce(f.fee_value, 0);
    orders := orders || f.order_id;
    gains := gains || gain;
  END LOOP;
  kept := kept || p;
  UPDATE position o SET quantity = k.quantity, cost = k.cost, fees = k.fees, realised = k.realised,
         trades = o.trades + coalesce(s.trades, 0), wins = o.wins + coalesce(s.wins, 0)
    FROM unnest(kept) k LEFT JOIN
         (SELECT strategy_id, market_id, count(*) FILTER (WHERE filled_quantity = 0) AS trades, sum((realised + x.gain > 0)::int - (realised > 0)::int) AS wins
            FROM (SELECT id, sum(x.gain) AS gain FROM unnest(orders, gains) x (id, gain) GROUP BY id) x JOIN "order" USING (id)
           WHERE side = 'sell' GROUP BY 1, 2) s USING (strategy_id, market_id)
   WHERE (o.strategy_id, o.market_id) = (k.strategy_id, k.market_id);
  UPDATE "order" o SET filled_quantity = o.filled_quantity + x.quantity, filled_quote = o.filled_quote + x.quote, realised = o.realised + g.gain
    FROM (SELECT order_id, sum(quantity) AS quantity, sum(quote) AS quote FROM new_rows GROUP BY 1) x
    JOIN (SELECT g.id, sum(g.gain) AS gain FROM unnest(orders, gains) g (id, gain) GROUP BY 1) g ON g.id = x.order_id
   WHERE o.id = x.order_id;
  UPDATE hold h SET quantity = greatest(0, h.quantity - x.used)
    FROM (SELECT n.order_id, sum(CASE n.side WHEN 'buy' THEN n.quote ELSE n.quantity END + CASE WHEN n.fee_asset_id = h.asset_id THEN greatest(n.fee, 0) ELSE 0 END) AS used
            FROM new_rows n JOIN hold h USING (order_id) GROUP BY 1) x
   WHERE h.order_id = x.order_id;
  RETURN NULL;
END $$;

REVOKE EXECUTE ON FUNCTION order_event_insert(), order_follow(), order_hold(), order_post(), order_unallocated() FROM PUBLIC;
CREATE TRIGGER order_event_insert AFTER INSERT ON "order" REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION order_event_insert();
CREATE TRIGGER order_event_update AFTER UPDATE ON "order" REFERENCING NEW TABLE AS new_rows OLD TABLE AS old_rows
  FOR EACH STATEMENT EXECUTE FUNCTION order_event_insert();
CREATE TRIGGER order_hold AFTER UPDATE ON "order" REFERENCING NEW TABLE AS new_rows OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION order_hold();
CREATE TRIGGER order_post AFTER INSERT ON "order" REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION order_post();
CREATE TRIGGER order_follow_insert AFTER INSERT ON "order" REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION order_follow();
CREATE TRIGGER order_follow_update AFTER UPDATE ON "order" REFERENCING NEW TABLE AS new_rows OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION order_follow();
CREATE TRIGGER order_unallocated AFTER INSERT ON "order" REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION order_unallocated();

DROP INDEX one_order_per_strategy_and_candle;
ALTER TABLE "order" ADD CONSTRAINT one_order_per_strategy_and_candle UNIQUE (strategy_id, bucket_time);

ALTER TABLE "order" ADD FOREIGN KEY (account_id) REFERENCES account, ADD FOREIGN KEY (hold_asset_id) REFERENCES asset;
ALTER TABLE fill ADD FOREIGN KEY (order_id) REFERENCES "order", ADD FOREIGN KEY (account_id) REFERENCES account, ADD FOREIGN KEY (market_id) REFERENCES market;
ALTER TABLE ledger ADD FOREIGN KEY (from_id) REFERENCES ledger_account, ADD FOREIGN KEY (to_id) REFERENCES ledger_account,
  ADD FOREIGN KEY (asset_id) REFERENCES asset, ADD FOREIGN KEY (order_id) REFERENCES "order", ADD FOREIGN KEY (fill_id) REFERENCES fill;
ALTER TABLE order_event ADD FOREIGN KEY (order_id) REFERENCES "order";
ALTER TABLE hold ADD FOREIGN KEY (order_id) REFERENCES "order", ADD FOREIGN KEY (ledger_account_id, asset_id) REFERENCES balance;
DROP TRIGGER kept ON asset;

CREATE OR REPLACE FUNCTION hold_insert() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  wrong record;
BEGIN
  UPDATE balance b SET held = b.held + n.quantity
    FROM (SELECT ledger_account_id, asset_id, sum(quantity) AS quantity FROM new_rows GROUP BY 1, 2) n
   WHERE (b.ledger_account_id, b.asset_id) = (n.ledger_account_id, n.asset_id);
  SELECT s.name, a.code, b.total - b.held AS free INTO wrong FROM new_rows n JOIN balance b USING (ledger_account_id, asset_id)
    JOIN ledger_account l ON l.id = b.ledger_account_id JOIN strategy s ON s.id = l.strategy_id JOIN asset a ON a.id = b.asset_id
   WHERE b.held > b.total LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION 'strategy %: its allowance is too small by % %', wrong.name, trim_scale(-wrong.free), wrong.code USING ERRCODE = 'check_violation';
  END IF;
  RETURN NULL;
END $$;

COMMENT ON COLUMN "order".account_id IS NULL;
COMMENT ON COLUMN "order".hold_asset_id IS 'Which asset was reserved for it when it was claimed.';
COMMENT ON COLUMN fill.order_id IS NULL;
COMMENT ON COLUMN fill.account_id IS NULL;
COMMENT ON COLUMN fill.market_id IS NULL;
COMMENT ON COLUMN ledger.from_id IS NULL;
COMMENT ON COLUMN ledger.to_id IS NULL;
COMMENT ON COLUMN ledger.asset_id IS NULL;
COMMENT ON COLUMN ledger.order_id IS NULL;
COMMENT ON COLUMN ledger.fill_id IS NULL;
COMMENT ON COLUMN order_event.order_id IS NULL;
COMMENT ON COLUMN hold.order_id IS NULL;
COMMENT ON COLUMN hold.ledger_account_id IS NULL;
COMMENT ON COLUMN hold.asset_id IS NULL;

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
