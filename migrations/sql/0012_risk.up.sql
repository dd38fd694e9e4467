-- Risk: limits of strategies and accounts, what of them is used, and accounts that only reduce.

ALTER TABLE account
  ADD COLUMN reducing boolean NOT NULL DEFAULT false,
  ADD COLUMN state text NOT NULL GENERATED ALWAYS AS (CASE WHEN halted THEN 'halted' WHEN reducing THEN 'reducing' ELSE 'active' END) STORED;
COMMENT ON COLUMN account.reducing IS 'True: buys are denied; sells of what strategies hold, and cancels, pass.';
COMMENT ON COLUMN account.state IS 'active, reducing or halted: follows the two columns that people write, halted and reducing.';

CREATE TABLE risk_limit (
  id                     int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  account_id             smallint NOT NULL REFERENCES account,
  strategy_id            int REFERENCES strategy,
  unit_id                smallint NOT NULL REFERENCES asset,
  max_order_value        numeric,
  max_position           numeric,
  max_open_orders        int,
  max_orders_per_minute  int,
  max_daily_loss         numeric,
  price_collar           numeric,
  loss_told_at           timestamptz,
  UNIQUE NULLS NOT DISTINCT (account_id, strategy_id),
  CONSTRAINT max_order_value_is_a_finite_number_above_zero CHECK (max_order_value > 0 AND max_order_value < 'Infinity'),
  CONSTRAINT max_position_is_a_finite_number_above_zero CHECK (max_position > 0 AND max_position < 'Infinity'),
  CONSTRAINT max_open_orders_is_above_zero CHECK (max_open_orders > 0),
  CONSTRAINT max_orders_per_minute_is_above_zero CHECK (max_orders_per_minute > 0),
  CONSTRAINT max_daily_loss_is_a_finite_number_above_zero CHECK (max_daily_loss > 0 AND max_daily_loss < 'Infinity'),
  CONSTRAINT price_collar_is_a_share_above_zero CHECK (price_collar > 0 AND price_collar <= 1)
);
CREATE UNIQUE INDEX risk_limit_strategy ON risk_limit (strategy_id) WHERE strategy_id IS NOT NULL;
COMMENT ON TABLE risk_limit IS 'Limits of a strategy, or of an account as a whole. People write to the view limits. NULL: no limit.';
COMMENT ON COLUMN risk_limit.strategy_id IS 'NULL: the limits are for all strategies of the account together.';
COMMENT ON COLUMN risk_limit.unit_id IS 'What the values are told in: a strategy''s own unit; for an account the one that was named, else the one that all its strategies share.';
COMMENT ON COLUMN risk_limit.max_order_value IS 'The most that one order, buy or sell, may be worth.';
COMMENT ON COLUMN risk_limit.max_position IS 'The most that may be held of one asset after a buy, open buys counted as if they had traded.';
COMMENT ON COLUMN risk_limit.max_open_orders IS 'The most orders in flight or open at once.';
COMMENT ON COLUMN risk_limit.max_orders_per_minute IS 'The most orders that are claimed to be sent within any 60 seconds.';
COMMENT ON COLUMN risk_limit.max_daily_loss IS 'Above this loss since 00:00 UTC, realised and unrealised, buys are denied; sells pass.';
COMMENT ON COLUMN risk_limit.price_collar IS 'A share: a buy above last x (1 + this), or a sell below last x (1 - this), is denied.';
COMMENT ON COLUMN risk_limit.loss_told_at IS 'When an incident last said that max_daily_loss is exceeded: once a day.';

CREATE TABLE risk_sent (
  risk_limit_id  int NOT NULL REFERENCES risk_limit ON DELETE CASCADE,
  at             timestamptz NOT NULL DEFAULT clock_timestamp(),
  orders         int NOT NULL
);
CREATE INDEX risk_sent_limit ON risk_sent (risk_limit_id, at);
COMMENT ON TABLE risk_sent IS 'Orders claimed within the last minute under a max_orders_per_minute. Written by traders, and only where there is such a limit.';
COMMENT ON COLUMN risk_sent.at IS 'When they were claimed.';
COMMENT ON COLUMN risk_sent.orders IS 'How many one claim took.';
CREATE TRIGGER written BEFORE INSERT OR UPDATE OR DELETE ON risk_sent FOR EACH STATEMENT
  EXECUTE FUNCTION only_from_processes('traders count what they send; to begin anew: DELETE FROM limits and insert the row again');
CREATE TRIGGER kept BEFORE TRUNCATE ON risk_sent FOR EACH STATEMENT EXECUTE FUNCTION refuse('traders count what they send');

CREATE FUNCTION risk_limit_check() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
  s strategy;
  units text[];
BEGIN
  IF TG_OP = 'UPDATE' AND (NEW.account_id, NEW.strategy_id, NEW.unit_id) IS DISTINCT FROM (OLD.account_id, OLD.strategy_id, OLD.unit_id) THEN
    RAISE EXCEPTION 'account, strategy and unit of limits are fixed: DELETE FROM limits and insert others' USING ERRCODE = 'restrict_violation';
  END IF;
  PERFORM check_amount('max_order_value', NEW.max_order_value), check_amount('max_position', NEW.max_position), check_amount('max_daily_loss', NEW.max_daily_loss),
    check_amount('max_open_orders', NEW.max_open_orders), check_amount('max_orders_per_minute', NEW.max_orders_per_minute), check_amount('price_collar', NEW.price_collar);
  IF NEW.price_collar > 1 THEN
    RAISE EXCEPTION 'price_collar is %: it is a share, at most 1 (0.05 is 5 %%)', NEW.price_collar USING ERRCODE = 'check_violation';
  END IF;
  IF NEW.strategy_id IS NOT NULL THEN
    SELECT * INTO s FROM strategy WHERE id = NEW.strategy_id;
    IF NOT FOUND THEN RETURN NEW; END IF;  -- the foreign key says it better
    IF NEW.account_id IS DISTINCT FROM s.account_id AND NEW.account_id IS NOT NULL THEN
      RAISE EXCEPTION 'strategy % trades on account %: name that one, or none', s.name, (SELECT name FROM account WHERE id = s.account_id) USING ERRCODE = 'check_violation';
    END IF;
    IF NEW.unit_id IS DISTINCT FROM s.unit_id AND NEW.unit_id IS NOT NULL THEN
      RAISE EXCEPTION 'unit of strategy % is %: its limits are told in that; name it, or none', s.name, (SELECT code FROM asset WHERE id = s.unit_id) USING ERRCODE = 'check_violation';
    END IF;
    NEW.account_id := s.account_id;
    NEW.unit_id := s.unit_id;
  ELSIF NEW.unit_id IS NULL AND NEW.account_id IS NOT NULL THEN
    SELECT array_agg(DISTINCT a.code), min(a.id) INTO units, NEW.unit_id FROM strategy x JOIN asset a ON a.id = x.unit_id WHERE x.account_id = NEW.account_id;
    IF cardinality(units) IS DISTINCT FROM 1 THEN
      RAISE EXCEPTION 'unit is not given, and the strategies of account % have %: name the asset that its limits are told in', (SELECT name FROM account WHERE id = NEW.account_id),
        coalesce(array_to_string(units, ', '), 'none yet') USING ERRCODE = 'check_violation';
    END IF;
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER risk_limit_check BEFORE INSERT OR UPDATE ON risk_limit FOR EACH ROW EXECUTE FUNCTION risk_limit_check();

-- The view that people write to.
CREATE VIEW limits AS
  SELECT c.name AS account, s.name AS strategy, u.code AS unit, trim_scale(r.max_order_value) AS max_order_value, trim_scale(r.max_position) AS max_position,
         r.max_open_orders, r.max_orders_per_minute, trim_scale(r.max_daily_loss) AS max_daily_loss, trim_scale(r.price_collar) AS price_collar
    FROM risk_limit r
    JOIN account c ON c.id = r.account_id
    JOIN asset u ON u.id = r.unit_id
    LEFT JOIN strategy s ON s.id = r.strategy_id;
COMMENT ON VIEW limits IS 'Limits by names: of a strategy, or with strategy NULL of an account as a whole. INSERT, UPDATE and DELETE here; traders obey from their next claim on. NULL: no limit.';
DO $$
DECLARE
  c record;
BEGIN
  FOR c IN SELECT v.attname AS name, col_description('risk_limit'::regclass, o.attnum) AS meaning FROM pg_attribute v JOIN pg_attribute o USING (attname)
            WHERE v.attrelid = 'limits'::regclass AND o.attrelid = 'risk_limit'::regclass AND v.attnum > 0 AND o.attnum > 0 LOOP
    EXECUTE format('COMMENT ON COLUMN limits.%I IS %L', c.name, c.meaning);
  END LOOP;
END $$;
COMMENT ON COLUMN limits.unit IS 'What the values are told in: a strategy''s own unit; for an account the one that was named, else the one that all its strategies share.';

CREATE FUNCTION limits_write() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
  account_ smallint;
  strategy_ int;
  unit_ smallint;
  limit_ int;
BEGIN
  IF TG_OP = 'INSERT' THEN
    IF num_nonnulls(NEW.account, NEW.strategy) = 0 THEN
      RAISE EXCEPTION 'limits are of a strategy or of an account: name one' USING ERRCODE = 'check_violation';
    END IF;
    SELECT id INTO account_ FROM account WHERE name = NEW.account;
    IF account_ IS NULL AND NEW.account IS NOT NULL THEN
      RAISE EXCEPTION 'unknown account "%": there is %', NEW.account, coalesce((SELECT string_agg(name, ', ' ORDER BY name) FROM account),
        'none yet (tallydesk account add)') USING ERRCODE = 'foreign_key_violation';
    END IF;
    SELECT id INTO strategy_ FROM strategy WHERE name = NEW.strategy;
    IF strategy_ IS NULL AND NEW.strategy IS NOT NULL THEN
      RAISE EXCEPTION 'unknown strategy "%": there is %', NEW.strategy, coalesce((SELECT string_agg(name, ', ' ORDER BY name) FROM strategy),
        'none yet (tallydesk strategy add)') USING ERRCODE = 'foreign_key_violation';
    END IF;
    SELECT id INTO unit_ FROM asset WHERE code = NEW.unit;
    IF unit_ IS NULL AND NEW.unit IS NOT NULL THEN
      RAISE EXCEPTION 'unknown unit "%": it is an asset, such as USDT', NEW.unit USING ERRCODE = 'foreign_key_violation';
    END IF;
    BEGIN
      INSERT INTO risk_limit (account_id, strategy_id, unit_id, max_order_value, max_position, max_open_orders, max_orders_per_minute, max_daily_loss, price_collar)
        VALUES (account_, strategy_, unit_, NEW.max_order_value, NEW.max_position, NEW.max_open_orders, NEW.max_orders_per_minute, NEW.max_daily_loss, NEW.price_collar);
    EXCEPTION WHEN unique_violation THEN
      RAISE EXCEPTION '% has limits already: UPDATE limits SET ... WHERE %', coalesce('strategy ' || NEW.strategy, 'account ' || NEW.account),
        CASE WHEN NEW.strategy IS NULL THEN format('account = %L AND strategy IS NULL', NEW.account) ELSE format('strategy = %L', NEW.strategy) END USING ERRCODE = 'unique_violation';
    END;
    SELECT * INTO NEW FROM limits l WHERE l.strategy = NEW.strategy OR (NEW.strategy IS NULL AND l.strategy IS NULL AND l.account = NEW.account);
    RETURN NEW;
  END IF;
  SELECT r.id INTO STRICT limit_ FROM risk_limit r JOIN account c ON c.id = r.account_id LEFT JOIN strategy s ON s.id = r.strategy_id
   WHERE c.name = OLD.account AND s.name IS NOT DISTINCT FROM OLD.strategy;
  IF TG_OP = 'DELETE' THEN
    DELETE FROM risk_limit WHERE id = limit_;
    RETURN OLD;
  END IF;
  IF (NEW.account, NEW.strategy, NEW.unit) IS DISTINCT FROM (OLD.account, OLD.strategy, OLD.unit) THEN
    RAISE EXCEPTION 'account, strategy and unit of limits are fixed: DELETE FROM limits and insert others' USING ERRCODE = 'restrict_violation';
  END IF;
  UPDATE risk_limit SET max_order_value = NEW.max_order_value, max_position = NEW.max_position, max_open_orders = NEW.max_open_orders,
         max_orders_per_minute = NEW.max_orders_per_minute, max_daily_loss = NEW.max_daily_loss, price_collar = NEW.price_collar
   WHERE id = limit_;
  RETURN NEW;
END $$;
CREATE TRIGGER limits_write INSTEAD OF INSERT OR UPDATE OR DELETE ON limits FOR EACH ROW EXECUTE FUNCTION limits_write();

-- What is used. Two conditions on status, because each is that of an index.
CREATE FUNCTION risk_open_orders(p_account int, p_strategy int) RETURNS TABLE (side order_side, market_id int, sent_quantity numeric, sent_quote_quantity numeric, sent_price numeric, filled_quantity numeric, filled_quote numeric)
  LANGUAGE sql STABLE SET search_path = public, pg_temp AS $$
  SELECT side, market_id, sent_quantity, sent_quote_quantity, sent_price, filled_quantity, filled_quote
    FROM "order" WHERE account_id = p_account AND (p_strategy IS NULL OR strategy_id = p_strategy) AND status = 'submitted'
  UNION ALL
  SELECT side, market_id, sent_quantity, sent_quote_quantity, sent_price, filled_quantity, filled_quote
    FROM "order" WHERE account_id = p_account AND (p_strategy IS NULL OR strategy_id = p_strategy) AND status IN ('accepted', 'partially_filled', 'pending_cancel') $$;
COMMENT ON FUNCTION risk_open_orders IS 'Orders in flight or open: of a strategy, or with NULL of a whole account.';

CREATE FUNCTION risk_positions(p_limit int) RETURNS TABLE (base_id smallint, quote_id smallint, quantity numeric, cost numeric) LANGUAGE sql STABLE SET search_path = public, pg_temp AS $$
  SELECT b.asset_id, NULL::smallint, sum(b.total), 0
    FROM risk_limit r
    JOIN strategy s ON s.account_id = r.account_id AND (r.strategy_id IS NULL OR s.id = r.strategy_id)
    JOIN ledger_account l ON l.strategy_id = s.id
    JOIN balance b ON b.ledger_account_id = l.id
   WHERE r.id = p_limit GROUP BY 1
  UNION ALL
  SELECT m.base_id, m.quote_id, coalesce(sum(o.sent_quantity - o.filled_quantity) FILTER (WHERE o.sent_price IS NULL), 0),
         coalesce(sum(greatest(0, coalesce((o.sent_quantity - o.filled_quantity) * o.sent_price, o.sent_quote_quantity - o.filled_quote))), 0)
    FROM risk_limit r
   CROSS JOIN LATERAL risk_open_orders(r.account_id, r.strategy_id) o
    JOIN market m ON m.id = o.market_id
   WHERE r.id = p_limit AND o.side = 'buy' GROUP BY 1, 2 $$;
COMMENT ON FUNCTION risk_positions IS 'What the strategies of a limit hold of each asset (quote_id NULL), and what their open buys would add: base whose price is open, and quote that is left to spend.';

CREATE FUNCTION risk_losses(p_limits int[]) RETURNS TABLE (limit_id int, loss numeric, unpriced text[]) LANGUAGE sql STABLE SET search_path = public, pg_temp AS $$
  WITH day AS (SELECT date_trunc('day', clock_timestamp(), 'UTC') AS start),
  scope AS MATERIALIZED (
    SELECT r.id AS limit_id, r.unit_id AS told_in, s.id, s.unit_id, c.exchange_id, l.id AS ledger_account_id
      FROM risk_limit r
      JOIN account c ON c.id = r.account_id
      JOIN strategy s ON s.account_id = r.account_id AND (r.strategy_id IS NULL OR s.id = r.strategy_id)
      JOIN ledger_account l ON l.strategy_id = s.id
     WHERE r.id = ANY(p_limits)),
  price AS MATERIALIZED (  -- each once: many strategies hold the same
    SELECT asset_id, unit_id, exchange_id, asset_price(asset_id, unit_id, exchange_id) AS price
      FROM (SELECT b.asset_id, s.unit_id, s.exchange_id FROM scope s JOIN balance b USING (ledger_account_id) WHERE b.total <> 0
            UNION SELECT unit_id, told_in, exchange_id FROM scope) wanted),
  worth AS (
    SELECT s.limit_id, s.id, coalesce(sum(b.total * p.price), 0) AS equity, string_agg(a.code, ' ') FILTER (WHERE p.price IS NULL) AS unpriced
      FROM scope s
      JOIN balance b ON b.ledger_account_id = s.ledger_account_id AND b.total <> 0
      JOIN asset a ON a.id = b.asset_id
      JOIN price p ON (p.asset_id, p.unit_id, p.exchange_id) = (b.asset_id, s.unit_id, s.exchange_id)
     GROUP BY 1, 2),
  paid AS (
    SELECT f.strategy_id, coalesce(sum(f.units) FILTER (WHERE o.created_at < day.start), 0) AS units, coalesce(sum(f.value) FILTER (WHERE o.created_at >= day.start), 0) AS value,
           max(o.created_at) FILTER (WHERE o.created_at < day.start) AS at, (array_agg(f.unit_value ORDER BY f.order_id DESC) FILTER (WHERE o.created_at < day.start))[1] AS unit_value
      FROM day CROSS JOIN flow f JOIN "order" o ON o.id = f.order_id
     WHERE f.strategy_id IN (SELECT id FROM scope) GROUP BY 1)
  -- What a unit was worth when the day began: as last sampled, or at the last deposit or withdrawal if that was later. Who never had anything lost nothing.
  SELECT s.limit_id, coalesce(sum((f.units * CASE WHEN v.at > f.at THEN v.unit_value ELSE coalesce(f.unit_value, 1) END + f.value - coalesce(w.equity, 0)) * x.price), 0),
         (SELECT array_agg(DISTINCT code ORDER BY code) FROM unnest(string_to_array(string_agg(concat_ws(' ', w.unpriced, CASE WHEN x.price IS NULL THEN u.code END), ' '), ' ')) code WHERE code <> '')
    FROM day
   CROSS JOIN scope s
    JOIN asset u ON u.id = s.unit_id
    JOIN paid f ON f.strategy_id = s.id
    JOIN price x ON (x.asset_id, x.unit_id, x.exchange_id) = (s.unit_id, s.told_in, s.exchange_id)
    LEFT JOIN worth w ON (w.limit_id, w.id) = (s.limit_id, s.id)
    LEFT JOIN LATERAL (SELECT p.at, p.unit_value FROM equity_point p WHERE p.strategy_id = s.id AND p.at < day.start ORDER BY p.at DESC LIMIT 1) v ON true
   GROUP BY s.limit_id $$;
COMMENT ON FUNCTION risk_losses IS 'What the strategies of limits lost since 00:00 UTC, in the unit of each limit: worth then, plus what was paid in since, minus worth now. Below zero: a profit. Assets that nobody can price are left out and named.';

CREATE VIEW risk_usage AS
  SELECT c.name AS account, s.name AS strategy, k.rule, k.asset, trim_scale(k.allowed) AS allowed, trim_scale(round(k.used, 8)) AS used,
         CASE WHEN k.used IS NOT NULL THEN trim_scale(round(greatest(0, k.allowed - k.used), 8)) END AS remaining, CASE WHEN k.money THEN u.code END AS unit
    FROM risk_limit r
    JOIN account c ON c.id = r.account_id
    JOIN asset u ON u.id = r.unit_id
    LEFT JOIN strategy s ON s.id = r.strategy_id
   CROSS JOIN LATERAL (
      SELECT 1, 'max_order_value', NULL, r.max_order_value, NULL::numeric, true
      UNION ALL SELECT 2, 'max_position', a.code, r.max_position,
                       sum(p.quantity * CASE WHEN p.quantity = 0 THEN 0 ELSE w.price END + CASE WHEN p.cost = 0 THEN 0 ELSE p.cost * w.rate END)
                         + CASE WHEN bool_or(p.quantity <> 0 AND w.price IS NULL OR p.cost <> 0 AND w.rate IS NULL) THEN NULL ELSE 0 END, true
                  FROM risk_positions(r.id) p JOIN asset a ON a.id = p.base_id
                 CROSS JOIN LATERAL (SELECT asset_price(p.base_id, r.unit_id, c.exchange_id) AS price, asset_price(p.quote_id, r.unit_id, c.exchange_id) AS rate) w
                 WHERE r.max_position IS NOT NULL AND p.base_id <> r.unit_id GROUP BY a.code
      UNION ALL SELECT 2, 'max_position', NULL, r.max_position, 0, true WHERE NOT EXISTS (SELECT FROM risk_positions(r.id) p WHERE p.base_id <> r.unit_id)
      UNION ALL SELECT 3, 'max_open_orders', NULL, r.max_open_orders, (SELECT count(*) FROM risk_open_orders(r.account_id, r.strategy_id)), false
      UNION ALL SELECT 4, 'max_orders_per_minute', NULL, r.max_orders_per_minute,
                       (SELECT coalesce(sum(n.orders), 0) FROM risk_sent n WHERE n.risk_limit_id = r.id AND n.at > clock_timestamp() - interval '1 min'), false
      UNION ALL SELECT 5, 'max_daily_loss', NULL, r.max_daily_loss, CASE WHEN l.unpriced IS NULL THEN greatest(0, coalesce(l.loss, 0)) END, true
                  FROM (SELECT) one LEFT JOIN risk_losses(CASE WHEN r.max_daily_loss IS NOT NULL THEN ARRAY[r.id] END) l ON true  -- of NULL it reads nothing
      UNION ALL SELECT 6, 'price_collar', NULL, r.price_collar, NULL, false) k (place, rule, asset, allowed, used, money)
   WHERE k.allowed IS NOT NULL
   ORDER BY c.name, s.name NULLS FIRST, k.place, k.asset;
COMMENT ON VIEW risk_usage IS 'Each limit beside what of it is used now.';
COMMENT ON COLUMN risk_usage.rule IS 'Which limit.';
COMMENT ON COLUMN risk_usage.asset IS 'Which position; NULL for the other rules, or if there is none yet.';
COMMENT ON COLUMN risk_usage.allowed IS 'The limit.';
COMMENT ON COLUMN risk_usage.used IS 'What of it is used, by the last candle closes. NULL: it is judged by each order alone, or a price that it needs is unknown.';
COMMENT ON COLUMN risk_usage.remaining IS 'What is left of it.';
COMMENT ON COLUMN risk_usage.unit IS 'What it is told in; NULL for counts and shares.';

GRANT SELECT ON risk_limit, risk_sent, limits, risk_usage TO tallydesk_reader, tallydesk_user;
GRANT UPDATE (reducing) ON account TO tallydesk_user;
GRANT INSERT (account_id, strategy_id, unit_id, max_order_value, max_position, max_open_orders, max_orders_per_minute, max_daily_loss, price_collar),
  UPDATE (max_order_value, max_position, max_open_orders, max_orders_per_minute, max_daily_loss, price_collar), DELETE ON risk_limit TO tallydesk_user;
GRANT INSERT, UPDATE, DELETE ON limits TO tallydesk_user;
