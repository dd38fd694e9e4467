-- Money: facts (fills, deposits, withdrawals, adjustments), the double-entry ledger that they post, and what is kept of it
-- (balances, holds, positions) so that reading costs the same however long the history is.

CREATE TYPE ledger_account_kind AS ENUM ('strategy', 'unallocated', 'funding', 'venue', 'fees', 'external', 'suspense', 'in_transit');

CREATE TABLE ledger_account (
  id           int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  account_id   smallint NOT NULL REFERENCES account,
  kind         ledger_account_kind NOT NULL,
  strategy_id  int REFERENCES strategy,
  UNIQUE NULLS NOT DISTINCT (account_id, kind, strategy_id),
  CONSTRAINT a_strategy_if_and_only_if_the_kind_says_so CHECK ((kind = 'strategy') = (strategy_id IS NOT NULL))
);
CREATE UNIQUE INDEX ledger_account_strategy ON ledger_account (strategy_id) WHERE strategy_id IS NOT NULL;
COMMENT ON TABLE ledger_account IS 'Between what the ledger moves assets: each strategy, and per exchange account the kinds below.';
COMMENT ON COLUMN ledger_account.kind IS 'At the venue: strategy, unallocated (nobody''s yet), external (other people''s trades), suspense (unexplained), in_transit. Elsewhere: funding (where money comes from), venue (the other side of our trades), fees.';

CREATE FUNCTION ledger_accounts_of_account() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
  INSERT INTO ledger_account (account_id, kind)
    SELECT NEW.id, kind FROM unnest(enum_range(NULL::ledger_account_kind)) kind WHERE kind <> 'strategy';
  RETURN NULL;
END $$;
CREATE TRIGGER ledger_accounts AFTER INSERT ON account FOR EACH ROW EXECUTE FUNCTION ledger_accounts_of_account();
CREATE FUNCTION ledger_account_of_strategy() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
  INSERT INTO ledger_account (account_id, kind, strategy_id) VALUES (NEW.account_id, 'strategy', NEW.id);
  RETURN NULL;
END $$;
CREATE TRIGGER ledger_account AFTER INSERT ON strategy FOR EACH ROW EXECUTE FUNCTION ledger_account_of_strategy();

CREATE TYPE liquidity AS ENUM ('maker', 'taker');
CREATE TYPE fill_source AS ENUM ('answer', 'look-up', 'poll');

CREATE TABLE fill (
  id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  order_id      bigint NOT NULL REFERENCES "order",
  traded_at     timestamptz NOT NULL,
  side          order_side NOT NULL,
  quantity      positive_amount NOT NULL,
  price         positive_amount NOT NULL,
  quote         amount NOT NULL,
  fee           amount NOT NULL,
  fee_asset_id  smallint REFERENCES asset,
  fee_value     amount,
  liquidity     liquidity,
  account_id    smallint NOT NULL REFERENCES account,
  market_id     int NOT NULL REFERENCES market,
  trade_id      text NOT NULL,
  source        fill_source NOT NULL,
  booked_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
  CONSTRAINT a_trade_is_booked_once UNIQUE (account_id, market_id, trade_id, side),
  CONSTRAINT a_fee_names_its_asset CHECK (fee = 0 OR fee_asset_id IS NOT NULL)
);
CREATE INDEX fill_order ON fill (order_id);
CREATE INDEX fill_market ON fill (market_id, id);
COMMENT ON TABLE fill IS 'One execution, as the venue reported it. A fact: booked in whatever state its order is, once, for ever.';
COMMENT ON COLUMN fill.traded_at IS 'The venue''s time of the trade.';
COMMENT ON COLUMN fill.side IS 'That of its order.';
COMMENT ON COLUMN fill.quantity IS 'Base traded.';
COMMENT ON COLUMN fill.price IS 'In quote for one base.';
COMMENT ON COLUMN fill.liquidity IS 'maker: it rested in the book; taker: it took from it; NULL: the venue did not say.';
COMMENT ON COLUMN fill.booked_at IS 'When we booked it.';
COMMENT ON COLUMN fill.quote IS 'quantity x price.';
COMMENT ON COLUMN fill.fee IS 'In fee_asset; negative is a rebate.';
COMMENT ON COLUMN fill.fee_value IS 'The fee in the market''s quote asset, at the price of the fill; NULL if no price of the fee asset was known.';
COMMENT ON COLUMN fill.trade_id IS 'The venue''s number of the trade. Unique with account, market and side: a trade between two of our own orders has two sides.';
COMMENT ON COLUMN fill.source IS 'How we learned of it: the answer to our request, a look-up of an order in doubt, or the regular poll.';

CREATE TYPE adjustment_kind AS ENUM ('opening', 'external', 'suspense');

CREATE TABLE adjustment (
  id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  account_id  smallint NOT NULL REFERENCES account,
  asset_id    smallint NOT NULL REFERENCES asset,
  kind        adjustment_kind NOT NULL,
  quantity    amount NOT NULL CONSTRAINT quantity_is_not_zero CHECK (quantity <> 0),
  reason      text NOT NULL,
  created_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE adjustment IS 'What the venue holds that no order of ours explains. Never touches a strategy.';
COMMENT ON COLUMN adjustment.quantity IS 'Positive: the venue has more; negative: less.';
COMMENT ON COLUMN adjustment.reason IS 'Why, for whoever reads it next.';
COMMENT ON COLUMN adjustment.kind IS 'opening: what was there when the account was first read (becomes unallocated); external: other people''s doing; suspense: unexplained.';

CREATE TYPE ledger_kind AS ENUM ('deposit', 'withdrawal', 'trade', 'fee', 'adjustment');

CREATE TABLE ledger (
  id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at             timestamptz NOT NULL DEFAULT clock_timestamp(),
  kind           ledger_kind NOT NULL,
  from_id        int NOT NULL REFERENCES ledger_account,
  to_id          int NOT NULL REFERENCES ledger_account,
  asset_id       smallint NOT NULL REFERENCES asset,
  quantity       positive_amount NOT NULL,
  order_id       bigint REFERENCES "order",
  fill_id        bigint REFERENCES fill,
  adjustment_id  bigint REFERENCES adjustment,
  CONSTRAINT it_moves CHECK (from_id <> to_id),
  CONSTRAINT it_has_a_cause CHECK (num_nonnulls(order_id, adjustment_id) = 1)
);
CREATE INDEX ledger_order ON ledger (order_id);
COMMENT ON TABLE ledger IS 'Append-only double entry: each row moves quantity of an asset from one ledger account to another, so it balances by construction.';
COMMENT ON COLUMN ledger.at IS 'When it was booked.';
COMMENT ON COLUMN ledger.kind IS 'Which fact caused it.';
COMMENT ON COLUMN ledger.quantity IS 'How much of the asset moved from from_id to to_id.';

CREATE TABLE balance (
  ledger_account_id  int NOT NULL REFERENCES ledger_account,
  asset_id           smallint NOT NULL REFERENCES asset,
  total              amount NOT NULL DEFAULT 0,
  held               amount NOT NULL DEFAULT 0 CONSTRAINT held_is_not_negative CHECK (held >= 0),
  PRIMARY KEY (ledger_account_id, asset_id)
) WITH (fillfactor = 30, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
COMMENT ON TABLE balance IS 'What each ledger account at a venue has: the sum of its ledger rows, kept by triggers. Facts always post, even below zero.';
COMMENT ON COLUMN balance.total IS 'What is there, held or free.';
COMMENT ON COLUMN balance.held IS 'Reserved by orders in flight or open: the sum of its holds. Free is total - held.';

CREATE TABLE hold (
  order_id           bigint PRIMARY KEY REFERENCES "order",
  ledger_account_id  int NOT NULL,
  asset_id           smallint NOT NULL,
  quantity           amount NOT NULL CONSTRAINT quantity_is_not_negative CHECK (quantity >= 0),
  FOREIGN KEY (ledger_account_id, asset_id) REFERENCES balance
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
COMMENT ON TABLE hold IS 'Funds that an order in flight or open still reserves. Follows the orders; gone when they are final.';
COMMENT ON COLUMN hold.quantity IS 'What is still reserved: it shrinks with each fill.';

CREATE TABLE position (
  strategy_id  int NOT NULL REFERENCES strategy,
  market_id    int NOT NULL REFERENCES market,
  quantity     amount NOT NULL DEFAULT 0,
  cost         amount NOT NULL DEFAULT 0,
  realised     amount NOT NULL DEFAULT 0,
  fees         amount NOT NULL DEFAULT 0,
  trades       int NOT NULL DEFAULT 0,
  wins         int NOT NULL DEFAULT 0,
  PRIMARY KEY (strategy_id, market_id)
) WITH (fillfactor = 30, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
COMMENT ON TABLE position IS 'What a strategy holds on a market and made of it, at average cost, in the market''s quote; kept by triggers.';
COMMENT ON COLUMN position.quantity IS 'Base held, net of fees paid in base.';
COMMENT ON COLUMN position.cost IS 'What that quantity cost, fees included; cost / quantity is the average cost.';
COMMENT ON COLUMN position.realised IS 'Profit of what was sold, after fees.';
COMMENT ON COLUMN position.fees IS 'Fees paid, in whatever asset, valued in quote at the fill.';
COMMENT ON COLUMN position.trades IS 'Sell orders that traded: each closes some of the position.';
COMMENT ON COLUMN position.wins IS 'How many of those realised a profit.';

CREATE TABLE flow (
  order_id     bigint PRIMARY KEY REFERENCES "order",
  strategy_id  int NOT NULL REFERENCES strategy,
  value        amount NOT NULL,
  equity       amount NOT NULL,
  units        numeric NOT NULL,
  unit_value   numeric NOT NULL
);
CREATE INDEX flow_strategy ON flow (strategy_id, order_id);
COMMENT ON TABLE flow IS 'Deposits (+) and withdrawals (-) in the strategy''s unit. Each buys units at equity / units, so that money coming and going is no profit.';
COMMENT ON COLUMN flow.value IS 'What came (+) or went (-), at the price of that moment.';
COMMENT ON COLUMN flow.equity IS 'The strategy''s equity just before.';
COMMENT ON COLUMN flow.units IS 'Units bought (+) or sold (-); the time-weighted return is equity / units - 1.';
COMMENT ON COLUMN flow.unit_value IS 'What a unit was worth then. A strategy that was emptied goes on at this when money comes again.';

-- Who may write what: facts are written once, the rest follows.
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger FOR EACH STATEMENT
  EXECUTE FUNCTION refuse('the ledger is append-only; a contrary deposit, withdrawal or adjustment corrects it');
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON fill FOR EACH STATEMENT EXECUTE FUNCTION refuse('a fill is a fact of the venue');
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON adjustment FOR EACH STATEMENT EXECUTE FUNCTION refuse('insert a contrary adjustment');
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON flow FOR EACH STATEMENT EXECUTE FUNCTION refuse('it follows deposits and withdrawals');
CREATE TRIGGER follows BEFORE INSERT ON ledger FOR EACH STATEMENT
  EXECUTE FUNCTION only_from_triggers('it follows fills, deposits, withdrawals and adjustments; INSERT INTO orders instead');
CREATE TRIGGER follows BEFORE INSERT ON flow FOR EACH STATEMENT EXECUTE FUNCTION only_from_triggers('it follows deposits and withdrawals');
CREATE TRIGGER follows BEFORE INSERT OR UPDATE OR DELETE ON balance FOR EACH STATEMENT EXECUTE FUNCTION only_from_triggers('it follows the ledger and the holds');
CREATE TRIGGER follows BEFORE INSERT OR UPDATE OR DELETE ON position FOR EACH STATEMENT EXECUTE FUNCTION only_from_triggers('it follows the fills');
CREATE TRIGGER follows BEFORE INSERT OR UPDATE OR DELETE ON hold FOR EACH STATEMENT EXECUTE FUNCTION only_from_triggers('it follows the orders');
CREATE TRIGGER follows BEFORE INSERT OR UPDATE OR DELETE ON ledger_account FOR EACH STATEMENT EXECUTE FUNCTION only_from_triggers('it follows accounts and strategies');
CREATE TRIGGER kept BEFORE TRUNCATE ON balance FOR EACH STATEMENT EXECUTE FUNCTION refuse('it follows the ledger and the holds');
CREATE TRIGGER kept BEFORE TRUNCATE ON position FOR EACH STATEMENT EXECUTE FUNCTION refuse('it follows the fills');
CREATE TRIGGER kept BEFORE TRUNCATE ON hold FOR EACH STATEMENT EXECUTE FUNCTION refuse('it follows the orders');

-- What an asset is worth: the newest close of the market between the two at this exchange, else the last fill there. NULL: nobody knows.
CREATE FUNCTION market_price(p_market int) RETURNS numeric LANGUAGE sql STABLE AS $$
  SELECT coalesce(
    (SELECT b.close::numeric FROM bucket_feed f
       JOIN LATERAL (SELECT close, time_close FROM bucket WHERE market_id = f.market_id AND timeframe_id = f.timeframe_id ORDER BY time_close DESC LIMIT 1) b ON true
      WHERE f.market_id = p_market ORDER BY f.enabled DESC, b.time_close DESC LIMIT 1),
    (SELECT price FROM fill WHERE market_id = p_market ORDER BY id DESC LIMIT 1)) $$;
COMMENT ON FUNCTION market_price IS 'Quote for one base: the newest close of the feeds that are kept up to date, else of imported ones, else its last fill; NULL if there is none.';

CREATE FUNCTION asset_price(p_asset int, p_unit int, p_exchange int) RETURNS numeric LANGUAGE sql STABLE AS $$
  SELECT CASE WHEN p_asset = p_unit THEN 1 ELSE coalesce(
    (SELECT market_price(id) FROM market WHERE base_id = p_asset AND quote_id = p_unit AND exchange_id = p_exchange),
    (SELECT 1 / market_price(id) FROM market WHERE base_id = p_unit AND quote_id = p_asset AND exchange_id = p_exchange)) END $$;
COMMENT ON FUNCTION asset_price IS 'Units of p_unit for one p_asset at an exchange, by the market between them; NULL if there is none with a price.';

CREATE FUNCTION strategy_equity(p_strategy int) RETURNS TABLE (equity numeric, unpriced text[]) LANGUAGE sql STABLE AS $$
  SELECT coalesce(sum(b.total * p.price), 0), array_agg(a.code ORDER BY a.code) FILTER (WHERE p.price IS NULL)
    FROM strategy s
    JOIN account c ON c.id = s.account_id
    JOIN ledger_account l ON l.strategy_id = s.id
    JOIN balance b ON b.ledger_account_id = l.id AND b.total <> 0
    JOIN asset a ON a.id = b.asset_id
    CROSS JOIN LATERAL (SELECT asset_price(b.asset_id, s.unit_id, c.exchange_id) AS price) p
   WHERE s.id = p_strategy $$;
COMMENT ON FUNCTION strategy_equity IS 'What a strategy is worth in its unit; assets that nobody can price are left out and named.';

-- Ledger -> balance. Counterparties outside the venue (funding, venue, fees) are not kept: they would be one hot row for all strategies.
CREATE FUNCTION ledger_post() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
  INSERT INTO balance AS b (ledger_account_id, asset_id, total)
    SELECT x.id, x.asset_id, sum(x.delta)
      FROM (SELECT from_id AS id, asset_id, -quantity AS delta FROM new_rows UNION ALL SELECT to_id, asset_id, quantity FROM new_rows) x
      JOIN ledger_account l ON l.id = x.id AND l.kind NOT IN ('funding', 'venue', 'fees')
     GROUP BY x.id, x.asset_id ORDER BY x.id, x.asset_id  -- one lock order everywhere: no deadlock
    ON CONFLICT (ledger_account_id, asset_id) DO UPDATE SET total = b.total + EXCLUDED.total;
  RETURN NULL;
END $$;
CREATE TRIGGER ledger_post AFTER INSERT ON ledger REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION ledger_post();

-- Order -> hold. A hold is an intent, so it is refused when it exceeds what is free.
CREATE FUNCTION order_hold() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
  INSERT INTO hold (order_id, ledger_account_id, asset_id, quantity)
    SELECT n.id, l.id, n.hold_asset_id, n.hold_quantity FROM new_rows n JOIN old_rows o USING (id) JOIN ledger_account l ON l.strategy_id = n.strategy_id
     WHERE o.status = 'queued' AND n.status = 'submitted';
  DELETE FROM hold h USING new_rows n JOIN old_rows o USING (id)
    WHERE h.order_id = n.id AND order_is_final(n.status) AND NOT order_is_final(o.status);
  RETURN NULL;
END $$;
CREATE TRIGGER order_hold AFTER UPDATE ON "order" REFERENCING NEW TABLE AS new_rows OLD TABLE AS old_rows
  FOR EACH STATEMENT EXECUTE FUNCTION order_hold();

CREATE FUNCTION hold_insert() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
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
CREATE TRIGGER hold_insert AFTER INSERT ON hold REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION hold_insert();

CREATE FUNCTION hold_update() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
  UPDATE balance b SET held = b.held - d.quantity
    FROM (SELECT o.ledger_account_id, o.asset_id, sum(o.quantity - n.quantity) AS quantity FROM old_rows o JOIN new_rows n USING (order_id) GROUP BY 1, 2) d
   WHERE (b.ledger_account_id, b.asset_id) = (d.ledger_account_id, d.asset_id) AND d.quantity <> 0;
  RETURN NULL;
END $$;
CREATE TRIGGER hold_update AFTER UPDATE ON hold REFERENCING NEW TABLE AS new_rows OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION hold_update();

CREATE FUNCTION hold_delete() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
  UPDATE balance b SET held = b.held - o.quantity
    FROM (SELECT ledger_account_id, asset_id, sum(quantity) AS quantity FROM old_rows GROUP BY 1, 2) o
   WHERE (b.ledger_account_id, b.asset_id) = (o.ledger_account_id, o.asset_id) AND o.quantity <> 0;
  RETURN NULL;
END $$;
CREATE TRIGGER hold_delete AFTER DELETE ON hold REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION hold_delete();

-- Deposits and withdrawals post in the INSERT itself.
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

CREATE FUNCTION position_deposit(p_strategy int, p_asset int, p_quantity numeric, p_value numeric, p_unit int, p_exchange int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO position AS p (strategy_id, market_id, quantity, cost)
    SELECT p_strategy, id, p_quantity, p_value FROM market WHERE base_id = p_asset AND quote_id = p_unit AND exchange_id = p_exchange
    ON CONFLICT (strategy_id, market_id) DO UPDATE SET quantity = p.quantity + p_quantity,
      cost = CASE WHEN p_quantity > 0 OR p.quantity <= 0 THEN p.cost + p_value ELSE p.cost * greatest(0, 1 + p_quantity / p.quantity) END;
END $$;
COMMENT ON FUNCTION position_deposit IS 'An asset that is deposited has cost what it is worth then; one that is withdrawn takes its share of the cost along.';
CREATE TRIGGER order_post AFTER INSERT ON "order" REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION order_post();

-- Fill -> ledger, order, hold, position.
CREATE FUNCTION fill_insert() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
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
CREATE TRIGGER fill_insert BEFORE INSERT ON fill FOR EACH ROW EXECUTE FUNCTION fill_insert();

CREATE FUNCTION fill_post() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
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
COMMENT ON FUNCTION fill_post IS 'Trigger: fills post to the ledger, then to position (average cost with fees inside: a buy adds quantity and cost, a sell takes its share of the cost along and realises the rest), order and hold.';
CREATE TRIGGER fill_post AFTER INSERT ON fill REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION fill_post();

CREATE FUNCTION adjustment_post() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
  INSERT INTO ledger (kind, from_id, to_id, asset_id, quantity, adjustment_id)
    SELECT 'adjustment', CASE WHEN n.quantity > 0 THEN f.id ELSE t.id END, CASE WHEN n.quantity > 0 THEN t.id ELSE f.id END, n.asset_id, abs(n.quantity), n.id
      FROM new_rows n JOIN ledger_account f ON f.account_id = n.account_id AND f.kind = 'funding'
      JOIN ledger_account t ON t.account_id = n.account_id
       AND t.kind = (CASE n.kind WHEN 'opening' THEN 'unallocated' ELSE n.kind::text END)::ledger_account_kind
     ORDER BY n.id;
  RETURN NULL;
END $$;
CREATE TRIGGER adjustment_post AFTER INSERT ON adjustment REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION adjustment_post();
