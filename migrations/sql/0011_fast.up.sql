-- The same guards for less work.

-- A foreign key is a query for every row. These proved nothing: the rows are written by triggers alone, from rows that are there, and what they
-- refer to is never deleted and never changes its number. What people write keeps its keys, and so do the tables with few writes.
ALTER TABLE "order" DROP CONSTRAINT order_account_id_fkey, DROP CONSTRAINT order_hold_asset_id_fkey;
ALTER TABLE fill DROP CONSTRAINT fill_order_id_fkey, DROP CONSTRAINT fill_account_id_fkey, DROP CONSTRAINT fill_market_id_fkey;
ALTER TABLE ledger DROP CONSTRAINT ledger_from_id_fkey, DROP CONSTRAINT ledger_to_id_fkey, DROP CONSTRAINT ledger_asset_id_fkey,
  DROP CONSTRAINT ledger_order_id_fkey, DROP CONSTRAINT ledger_fill_id_fkey;
ALTER TABLE order_event DROP CONSTRAINT order_event_order_id_fkey;
ALTER TABLE hold DROP CONSTRAINT hold_order_id_fkey, DROP CONSTRAINT hold_ledger_account_id_asset_id_fkey;
CREATE TRIGGER kept BEFORE DELETE OR TRUNCATE ON asset FOR EACH STATEMENT EXECUTE FUNCTION refuse('assets are kept: the books name them');
COMMENT ON COLUMN "order".account_id IS 'That of its strategy; refers to account.';
COMMENT ON COLUMN "order".hold_asset_id IS 'Which asset was reserved for it when it was claimed; refers to asset, by its hold.';
COMMENT ON COLUMN fill.order_id IS 'Refers to "order": fill_insert refuses any other number.';
COMMENT ON COLUMN fill.account_id IS 'That of its order; refers to account.';
COMMENT ON COLUMN fill.market_id IS 'That of its order; refers to market.';
COMMENT ON COLUMN ledger.from_id IS 'Refers to ledger_account, as to_id does.';
COMMENT ON COLUMN ledger.to_id IS 'Refers to ledger_account.';
COMMENT ON COLUMN ledger.asset_id IS 'Refers to asset.';
COMMENT ON COLUMN ledger.order_id IS 'The order that caused it, if one did; refers to "order".';
COMMENT ON COLUMN ledger.fill_id IS 'The fill that caused it, if one did; refers to fill.';
COMMENT ON COLUMN order_event.order_id IS 'Refers to "order".';
COMMENT ON COLUMN hold.order_id IS 'Refers to "order".';
COMMENT ON COLUMN hold.ledger_account_id IS 'Of whom; refers to balance together with asset_id: hold_insert refuses a hold without one.';
COMMENT ON COLUMN hold.asset_id IS 'What is reserved; refers to balance, as ledger_account_id does.';

CREATE VIEW orphan AS
  SELECT 'what a row refers to is there' AS rule, format('%s %s', x.name, x.id) AS what, x.to_ AS kept, 'no such row' AS facts
    FROM (SELECT '"order"' AS name, o.id, format('account %s', o.account_id) AS to_ FROM "order" o LEFT JOIN account a ON a.id = o.account_id WHERE a.id IS NULL
          UNION ALL SELECT '"order"', o.id, format('asset %s', o.hold_asset_id) FROM "order" o LEFT JOIN asset a ON a.id = o.hold_asset_id WHERE o.hold_asset_id IS NOT NULL AND a.id IS NULL
          UNION ALL SELECT 'fill', f.id, format('order %s of account %s, market %s', f.order_id, f.account_id, f.market_id) FROM fill f
                      LEFT JOIN "order" o ON (o.id, o.account_id, o.market_id, o.side) = (f.order_id, f.account_id, f.market_id, f.side) WHERE o.id IS NULL
          UNION ALL SELECT 'ledger', l.id, format('ledger account %s', l.from_id) FROM ledger l LEFT JOIN ledger_account a ON a.id = l.from_id WHERE a.id IS NULL
          UNION ALL SELECT 'ledger', l.id, format('ledger account %s', l.to_id) FROM ledger l LEFT JOIN ledger_account a ON a.id = l.to_id WHERE a.id IS NULL
          UNION ALL SELECT 'ledger', l.id, format('asset %s', l.asset_id) FROM ledger l LEFT JOIN asset a ON a.id = l.asset_id WHERE a.id IS NULL
          UNION ALL SELECT 'ledger', l.id, format('order %s', l.order_id) FROM ledger l LEFT JOIN "order" o ON o.id = l.order_id WHERE l.order_id IS NOT NULL AND o.id IS NULL
          UNION ALL SELECT 'ledger', l.id, format('fill %s', l.fill_id) FROM ledger l LEFT JOIN fill f ON f.id = l.fill_id WHERE l.fill_id IS NOT NULL AND f.id IS NULL
          UNION ALL SELECT 'order_event', e.id, format('order %s', e.order_id) FROM order_event e LEFT JOIN "order" o ON o.id = e.order_id WHERE o.id IS NULL
          UNION ALL SELECT 'hold of order', h.order_id, format('order %s', h.order_id) FROM hold h LEFT JOIN "order" o ON o.id = h.order_id WHERE o.id IS NULL
          UNION ALL SELECT 'hold of order', h.order_id, format('balance of ledger account %s, asset %s', h.ledger_account_id, h.asset_id) FROM hold h
                      LEFT JOIN balance b USING (ledger_account_id, asset_id) WHERE b.asset_id IS NULL) x;
COMMENT ON VIEW orphan IS 'Rows that refer to one that is not there, where no foreign key refuses them. Always empty; part of invariant_violation.';
COMMENT ON COLUMN orphan.rule IS 'What should hold.';
COMMENT ON COLUMN orphan.what IS 'Which row.';
COMMENT ON COLUMN orphan.kept IS 'What it refers to.';
COMMENT ON COLUMN orphan.facts IS 'What is there.';
GRANT SELECT ON orphan TO tallydesk_reader, tallydesk_user;
DO $$
BEGIN
  EXECUTE format('CREATE OR REPLACE VIEW invariant_violation AS %s UNION ALL SELECT rule, what, kept, facts FROM orphan', rtrim(pg_get_viewdef('invariant_violation'), '; '));
END $$;

-- NULLs have no place in it: every order by hand was in it, and each of its steps made another entry.
ALTER TABLE "order" DROP CONSTRAINT one_order_per_strategy_and_candle;
CREATE UNIQUE INDEX one_order_per_strategy_and_candle ON "order" (strategy_id, bucket_time) WHERE bucket_time IS NOT NULL;

-- One trigger after each statement on "order" where there were four and three: each read all rows of the statement again.
DROP TRIGGER order_event_insert ON "order";
DROP TRIGGER order_follow_insert ON "order";
DROP TRIGGER order_post ON "order";
DROP TRIGGER order_unallocated ON "order";
DROP TRIGGER order_event_update ON "order";
DROP TRIGGER order_follow_update ON "order";
DROP TRIGGER order_hold ON "order";
DROP FUNCTION order_event_insert(), order_follow(), order_hold();
DROP FUNCTION order_post(), order_unallocated();

CREATE FUNCTION written_by() RETURNS text LANGUAGE sql STABLE AS $$
  SELECT session_user || coalesce(' ' || nullif(current_setting('application_name'), ''), '') $$;
COMMENT ON FUNCTION written_by IS 'Who writes now, for the history: the database user and the application.';

CREATE FUNCTION order_inserted() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  seen record;
BEGIN
  WITH event AS (
    INSERT INTO order_event (order_id, to_status, attempt, reason, written_by)
      SELECT id, status, attempt, reason, written_by() FROM new_rows ORDER BY id)
  SELECT bool_or(status = 'queued') AS queued, array_agg(id ORDER BY id) FILTER (WHERE status = 'waiting') AS waiting,
         array_agg(id) FILTER (WHERE status = 'posted') AS posted INTO seen FROM new_rows;
  IF seen.queued THEN
    PERFORM pg_notify('order_queued', '');  -- constant: one notification per transaction, however many rows
  END IF;
  IF seen.waiting IS NOT NULL THEN
    PERFORM order_release(seen.waiting);  -- there may be nothing to wait for
  END IF;
  IF seen.posted IS NOT NULL THEN
    PERFORM order_post(seen.posted);
    PERFORM order_unallocated(seen.posted);
  END IF;
  RETURN NULL;
END $$;
COMMENT ON FUNCTION order_inserted IS 'Trigger: what follows from new orders: their history, a word to the traders, the release of those that need not wait, the posting of deposits and withdrawals.';

CREATE FUNCTION order_updated() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  seen record;
BEGIN
  -- A full join pairs old and new by hashing or sorting. Any other could be done row against row by a plan made for one row.
  WITH pair AS MATERIALIZED (
    SELECT n.id, n.strategy_id, n.parent_id, n.attempt, n.reason, n.hold_asset_id, n.hold_quantity, o.status AS before, n.status,
           n.status <> o.status OR n.attempt <> o.attempt AS stepped, order_is_final(n.status) AND NOT order_is_final(o.status) AS ended,
           n.cancel_requested_at IS DISTINCT FROM o.cancel_requested_at AS cancel, n.triggered_at IS DISTINCT FROM o.triggered_at AS triggered,
           o.filled_quantity = 0 AND n.filled_quantity > 0 AS traded
      FROM new_rows n FULL JOIN old_rows o USING (id)),
  event AS (
    INSERT INTO order_event (order_id, from_status, to_status, attempt, reason, written_by)
      SELECT id, before, status, attempt, reason, written_by() FROM pair WHERE stepped ORDER BY id)
  SELECT bool_or(before = 'queued' AND status = 'submitted') AS submitted, array_agg(id) FILTER (WHERE ended) AS ended,
         bool_or(cancel AND NOT order_is_final(status)) AS cancel, bool_or(before = 'waiting' AND status = 'queued') AS queued,
         array_agg(id) FILTER (WHERE triggered) AS triggered, array_agg(id) FILTER (WHERE parent_id IS NOT NULL AND (traded OR triggered)) AS moved
    INTO seen FROM pair;
  IF seen.submitted THEN
    INSERT INTO hold (order_id, ledger_account_id, asset_id, quantity)
      SELECT n.id, l.id, n.hold_asset_id, n.hold_quantity FROM (SELECT * FROM new_rows n FULL JOIN (SELECT id, status AS before FROM old_rows) o USING (id) OFFSET 0) n
        JOIN ledger_account l ON l.strategy_id = n.strategy_id WHERE n.before = 'queued' AND n.status = 'submitted';
  END IF;
  IF seen.ended IS NOT NULL THEN
    DELETE FROM hold WHERE order_id = ANY(seen.ended);
  END IF;
  IF seen.cancel THEN
    PERFORM pg_notify('order_cancel', '');
  END IF;
  IF seen.queued THEN
    PERFORM pg_notify('order_queued', '');
  END IF;
  IF seen.moved IS NOT NULL OR seen.triggered IS NOT NULL OR seen.ended IS NOT NULL
     AND (SELECT id FROM "order" WHERE status < 'queued' ORDER BY account_id, id LIMIT 1) IS NOT NULL THEN
    PERFORM order_follow(seen.moved, seen.triggered, seen.ended);
  END IF;
  RETURN NULL;
END $$;
COMMENT ON FUNCTION order_updated IS 'Trigger: what follows from steps of orders: their history, their holds (an intent, so refused when it exceeds what is free), a word to the traders, and what it means for orders that wait.';

-- What an order's step means for those that wait for it, and for its group. Two that end at once wait for each other's row here, so that
-- the later one sees what the earlier did.
CREATE FUNCTION order_follow(p_moved bigint[], p_triggered bigint[], p_ended bigint[]) RETURNS void LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
  moved record;
  ready bigint[];
BEGIN
  FOR moved IN SELECT id, parent_id, coalesce(id = ANY(p_triggered), false) AS triggered FROM "order" WHERE id = ANY(p_moved) ORDER BY id LOOP
    PERFORM FROM "order" WHERE parent_id = moved.parent_id ORDER BY id FOR NO KEY UPDATE;
    UPDATE "order" g SET cancel_requested_at = clock_timestamp(), status = CASE WHEN g.status IN ('waiting', 'queued') THEN 'canceled' ELSE g.status END,
           reason = CASE WHEN g.status IN ('waiting', 'queued') THEN format('order %s of its group has %s', moved.id, CASE WHEN moved.triggered THEN 'triggered' ELSE 'traded' END) ELSE g.reason END
     WHERE g.parent_id = moved.parent_id AND g.id <> moved.id AND NOT order_is_final(g.status) AND g.cancel_requested_at IS NULL
       -- One that has triggered goes on with what is left, unless the other is filled; one that waits for its price stays when another triggers.
       AND NOT (g.status = 'waiting' AND (moved.triggered OR g.triggered_at IS NOT NULL));
  END LOOP;
  SELECT array_agg(DISTINCT w.id ORDER BY w.id) INTO ready
    FROM (SELECT unnest(p_triggered) AS id
          UNION ALL SELECT a.id FROM "order" a WHERE a.after_id = ANY(p_ended) AND a.status = 'waiting'
          UNION ALL SELECT g.id FROM "order" e JOIN "order" g ON g.parent_id = e.parent_id WHERE e.id = ANY(p_ended) AND g.status = 'waiting') w;
  IF ready IS NOT NULL THEN
    PERFORM order_release(ready);
  END IF;
END $$;
COMMENT ON FUNCTION order_follow IS 'What follows for other orders when these first traded or triggered in a group (p_moved), triggered (p_triggered), or ended (p_ended).';

-- As they were, for the orders given instead of for the rows of the statement.
CREATE FUNCTION order_post(p_orders bigint[]) RETURNS void LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
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
             FROM "order" n JOIN strategy s ON s.id = n.strategy_id JOIN asset a ON a.id = n.asset_id JOIN account c ON c.id = s.account_id
             JOIN ledger_account l ON l.strategy_id = s.id JOIN ledger_account u ON u.account_id = s.account_id AND u.kind = 'unallocated'
            WHERE n.id = ANY(p_orders) ORDER BY n.account_id, n.strategy_id, n.id LOOP
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
END $$;

CREATE FUNCTION order_unallocated(p_orders bigint[]) RETURNS void LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
  short record;
BEGIN
  SELECT c.name, a.code, b.total, sum(n.quantity) AS asked INTO short FROM "order" n JOIN account c ON c.id = n.account_id AND c.opened_at IS NOT NULL
    JOIN asset a ON a.id = n.asset_id JOIN ledger_account l ON l.account_id = c.id AND l.kind = 'unallocated'
    JOIN balance b ON b.ledger_account_id = l.id AND b.asset_id = n.asset_id
   WHERE n.id = ANY(p_orders) AND n.type = 'deposit' AND b.total < 0 GROUP BY 1, 2, 3 LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION 'account % has % % that no strategy was given yet, not %', short.name, trim_scale(greatest(short.total + short.asked, 0)), short.code,
      trim_scale(short.asked) USING ERRCODE = 'check_violation', HINT = 'Pay in at the venue and wait until select * from reconciliation shows it as unallocated, or withdraw from another strategy.';
  END IF;
END $$;
COMMENT ON FUNCTION order_unallocated IS 'A deposit gives out what is at the venue and nobody''s yet. To be called after order_post.';
COMMENT ON FUNCTION order_post IS 'Deposits and withdrawals post in the INSERT itself.';

REVOKE EXECUTE ON FUNCTION order_inserted(), order_updated() FROM PUBLIC;
CREATE TRIGGER order_inserted AFTER INSERT ON "order" REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION order_inserted();
CREATE TRIGGER order_updated AFTER UPDATE ON "order" REFERENCING NEW TABLE AS new_rows OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION order_updated();

-- Written for many rows at once: each row of a big table is found by its number, whatever size a plan was made for (OFFSET 0, arrays).
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
  quantities numeric[] := '{}';
  quotes numeric[] := '{}';
  gains numeric[] := '{}';
BEGIN
  INSERT INTO ledger (kind, from_id, to_id, asset_id, quantity, order_id, fill_id)
    WITH other AS MATERIALIZED (
      SELECT a.account_id, v.id AS venue, c.id AS fees FROM (SELECT DISTINCT account_id FROM new_rows) a
       CROSS JOIN LATERAL (SELECT id FROM ledger_account WHERE account_id = a.account_id AND kind = 'venue' OFFSET 0) v
       CROSS JOIN LATERAL (SELECT id FROM ledger_account WHERE account_id = a.account_id AND kind = 'fees' OFFSET 0) c)
    SELECT x.kind::ledger_kind, CASE WHEN x.delta < 0 THEN l.id ELSE x.other END, CASE WHEN x.delta < 0 THEN x.other ELSE l.id END, x.asset_id, abs(x.delta), n.order_id, n.id
      FROM new_rows n JOIN other w ON w.account_id = n.account_id JOIN market m ON m.id = n.market_id
     CROSS JOIN LATERAL (SELECT k.id FROM "order" o JOIN ledger_account k ON k.strategy_id = o.strategy_id WHERE o.id = n.order_id OFFSET 0) l
     CROSS JOIN LATERAL (VALUES ('trade', w.venue, m.base_id, CASE n.side WHEN 'buy' THEN n.quantity ELSE -n.quantity END),
                                ('trade', w.venue, m.quote_id, CASE n.side WHEN 'buy' THEN -n.quote ELSE n.quote END),
                                ('fee', w.fees, n.fee_asset_id, -n.fee)) x (kind, other, asset_id, delta)
     WHERE round(x.delta, 18) <> 0 ORDER BY n.id, x.asset_id;
  -- Average cost depends on the order of the fills: reckoned one by one, written once for each position.
  FOR f IN SELECT n.*, o.strategy_id, m.base_id FROM new_rows n CROSS JOIN LATERAL (SELECT strategy_id FROM "order" WHERE id = n.order_id OFFSET 0) o
             JOIN market m ON m.id = n.market_id ORDER BY o.strategy_id, n.market_id, n.id LOOP
    IF (f.strategy_id, f.market_id) IS DISTINCT FROM (p.strategy_id, p.market_id) THEN
      IF p.strategy_id IS NOT NULL THEN kept := kept || p; END IF;
      SELECT * INTO p FROM position WHERE strategy_id = f.strategy_id AND market_id = f.market_id FOR UPDATE;
      IF NOT FOUND THEN
        INSERT INTO position (strategy_id, market_id) VALUES (f.strategy_id, f.market_id) ON CONFLICT DO NOTHING;
        SELECT * INTO p FROM position WHERE strategy_id = f.strategy_id AND market_id = f.market_id FOR UPDATE;
      END IF;
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
    quantities := quantities || f.quantity::numeric;
    quotes := quotes || f.quote::numeric;
    gains := gains || gain;
  END LOOP;
  IF p.strategy_id IS NULL THEN RETURN NULL; END IF;  -- no row at all
  kept := kept || p;
  WITH filled AS (
    UPDATE "order" o SET filled_quantity = o.filled_quantity + x.quantity, filled_quote = o.filled_quote + x.quote, realised = o.realised + x.gain
      FROM (SELECT u.id, sum(u.quantity) AS quantity, sum(u.quote) AS quote, sum(u.gain) AS gain FROM unnest(orders, quantities, quotes, gains) u (id, quantity, quote, gain) GROUP BY u.id) x
     WHERE o.id = x.id
    RETURNING o.strategy_id, o.market_id, o.side, o.filled_quantity = x.quantity AS first, (o.realised > 0)::int - (o.realised - x.gain > 0)::int AS won)
  UPDATE position o SET quantity = k.quantity, cost = k.cost, fees = k.fees, realised = k.realised,
         trades = o.trades + coalesce(s.trades, 0), wins = o.wins + coalesce(s.wins, 0)
    FROM unnest(kept) k LEFT JOIN
         (SELECT strategy_id, market_id, count(*) FILTER (WHERE first) AS trades, sum(won) AS wins FROM filled WHERE side = 'sell' GROUP BY 1, 2) s USING (strategy_id, market_id)
   WHERE (o.strategy_id, o.market_id) = (k.strategy_id, k.market_id);
  UPDATE hold h SET quantity = greatest(0, h.quantity - x.used)
    FROM (SELECT n.order_id, sum(CASE n.side WHEN 'buy' THEN n.quote ELSE n.quantity END + CASE WHEN n.fee_asset_id = h.asset_id THEN greatest(n.fee, 0) ELSE 0 END) AS used
            FROM new_rows n CROSS JOIN LATERAL (SELECT asset_id FROM hold WHERE order_id = n.order_id OFFSET 0) h GROUP BY 1) x
   WHERE h.order_id = ANY(orders) AND h.order_id = x.order_id;
  RETURN NULL;
END $$;

-- A hold whose balance is not there is refused here; the rest is as it was.
CREATE OR REPLACE FUNCTION hold_insert() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  wrong record;
BEGIN
  UPDATE balance b SET held = b.held + n.quantity
    FROM (SELECT ledger_account_id, asset_id, sum(quantity) AS quantity FROM new_rows GROUP BY 1, 2) n
   WHERE (b.ledger_account_id, b.asset_id) = (n.ledger_account_id, n.asset_id);
  SELECT s.name, a.code, coalesce(b.total - b.held, -n.quantity) AS free INTO wrong
    FROM (SELECT ledger_account_id, asset_id, sum(quantity) AS quantity FROM new_rows GROUP BY 1, 2) n LEFT JOIN balance b USING (ledger_account_id, asset_id)
    JOIN ledger_account l ON l.id = n.ledger_account_id JOIN strategy s ON s.id = l.strategy_id LEFT JOIN asset a ON a.id = n.asset_id
   WHERE b.held > b.total OR b.asset_id IS NULL LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION 'strategy %: its allowance is too small by % %', wrong.name, trim_scale(-wrong.free), coalesce(wrong.code, 'of an unknown asset') USING ERRCODE = 'check_violation';
  END IF;
  RETURN NULL;
END $$;

-- What a new order names is looked up at once; an amount is only questioned in detail when something is wrong with it.
CREATE OR REPLACE FUNCTION order_insert() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
  s record;
  named record;
BEGIN
  SELECT y.name, y.account_id, y.order_ttl, a.name AS account, m.exchange_id = a.exchange_id AS ours INTO s
    FROM strategy y JOIN account a ON a.id = y.account_id LEFT JOIN market m ON m.id = NEW.market_id WHERE y.id = NEW.strategy_id;
  IF NOT FOUND THEN RETURN NEW; END IF;  -- the foreign key or NOT NULL says it better
  IF NEW.status <> 'queued' OR num_nonnulls(NEW.venue_order_id, NEW.sent_quantity, NEW.sent_quote_quantity, NEW.sent_price, NEW.hold_asset_id,
       NEW.hold_quantity, NEW.fence, NEW.submitted_at, NEW.receive_deadline, NEW.in_doubt_since, NEW.next_look_at, NEW.cancel_requested_at, NEW.triggered_at, NEW.reason) > 0
     OR (NEW.filled_quantity, NEW.filled_quote, NEW.realised, NEW.attempt, NEW.absences) <> (0, 0, 0, 0, 0) THEN
    RAISE EXCEPTION 'a new order starts as queued and empty: give only strategy, type, market, side, quantities, limit_price, time_in_force, trigger_price, trigger_when, after_id, parent_id, expires_at'
      USING ERRCODE = 'restrict_violation';
  END IF;
  IF NOT s.ours THEN
    RAISE EXCEPTION 'strategy % trades on account %, whose exchange does not have this market', s.name, s.account USING ERRCODE = 'check_violation';
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
  s record;
  market int;
  asset_ smallint;
  written int := num_nonnulls(NEW.id, NEW.status, NEW.filled_quantity, NEW.average_price, NEW.filled_quote, NEW.realised, NEW.reason, NEW.created_at,
    NEW.submitted_at, NEW.cancel_requested_at, NEW.updated_at, NEW.account, NEW.client_order_id, NEW.venue_order_id, NEW.triggered_at);
BEGIN
  IF written > 0 THEN
    RAISE EXCEPTION 'give only strategy, type, side, market, asset, quantity, quote_quantity, limit_price, time_in_force, trigger_price, trigger_when, after_id, parent_id, expires_at, bucket_time: the rest is kept by Tallydesk'
      USING ERRCODE = 'restrict_violation';
  END IF;
  SELECT y.id, m.id AS market_id INTO s FROM strategy y LEFT JOIN (market m JOIN exchange e ON e.id = m.exchange_id)
      ON e.name = split_part(NEW.market, ':', 1) AND m.symbol = substr(NEW.market, strpos(NEW.market, ':') + 1) AND NEW.market LIKE '%:%'
   WHERE y.name = NEW.strategy;
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
  IF NOT (coalesce(NEW.quantity, 1) >= 1e-18 AND coalesce(NEW.quantity, 1) < 1e20 AND coalesce(NEW.quote_quantity, 1) >= 1e-18 AND coalesce(NEW.quote_quantity, 1) < 1e20
          AND coalesce(NEW.limit_price, 1) >= 1e-18 AND coalesce(NEW.limit_price, 1) < 1e20 AND coalesce(NEW.trigger_price, 1) >= 1e-18 AND coalesce(NEW.trigger_price, 1) < 1e20) THEN
    PERFORM check_amount('quantity', NEW.quantity), check_amount('quote_quantity', NEW.quote_quantity), check_amount('limit_price', NEW.limit_price),
      check_amount('trigger_price', NEW.trigger_price);
  END IF;
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
    market := coalesce(s.market_id, (SELECT find_market(NEW.market, y) FROM strategy y WHERE y.id = s.id));
  END IF;
  INSERT INTO "order" (strategy_id, type, side, market_id, asset_id, quantity, quote_quantity, limit_price, expires_at, bucket_time,
                       time_in_force, trigger_price, trigger_when, after_id, parent_id)
    VALUES (s.id, NEW.type::order_type, NEW.side::order_side, market, asset_, NEW.quantity, NEW.quote_quantity, NEW.limit_price, NEW.expires_at, NEW.bucket_time,
            NEW.time_in_force::time_in_force, NEW.trigger_price, NEW.trigger_when::trigger_when, NEW.after_id, NEW.parent_id)
    RETURNING id, status, created_at, expires_at, client_order_id INTO NEW.id, NEW.status, NEW.created_at, NEW.expires_at, NEW.client_order_id;
  RETURN NEW;
END $$;
