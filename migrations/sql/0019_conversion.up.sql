-- What everything is worth in one unit, by rates that say how old they are and over which markets they lead;
-- balances that say when the venue was last read; markets that their venue does not trade any more.

CREATE TABLE setting (
  one            boolean PRIMARY KEY DEFAULT true CONSTRAINT there_is_one_row CHECK (one),
  unit           text NOT NULL DEFAULT 'USDT',
  rate_fresh     interval NOT NULL DEFAULT '5 min' CONSTRAINT rate_fresh_is_between_10_seconds_and_a_week CHECK (rate_fresh BETWEEN '10 s' AND '7 days'),
  balance_fresh  interval NOT NULL DEFAULT '1 min' CONSTRAINT balance_fresh_is_between_10_seconds_and_a_week CHECK (balance_fresh BETWEEN '10 s' AND '7 days')
);
COMMENT ON TABLE setting IS 'What holds for the whole desk: one row. UPDATE setting SET unit = ''EUR''; obeyed within seconds.';
COMMENT ON COLUMN setting.one IS 'There is one row.';
COMMENT ON COLUMN setting.unit IS 'The asset in which all worth is told in account_total, holding and performance. USDT is not USD: a market between the two says what one is worth in the other, or a person does: INSERT INTO rates.';
COMMENT ON COLUMN setting.rate_fresh IS 'How old a price may be to make a rate; one that is older is shown as stale.';
COMMENT ON COLUMN setting.balance_fresh IS 'How long after its last reading an account''s balances are shown as stale (they are read every 5 s).';
INSERT INTO setting DEFAULT VALUES;

CREATE FUNCTION setting_check() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
  IF NEW.unit <> OLD.unit AND NOT EXISTS (SELECT FROM asset WHERE code = NEW.unit) THEN
    RAISE EXCEPTION 'unknown unit "%": it is an asset, such as USDT', NEW.unit
      USING ERRCODE = 'foreign_key_violation', HINT = format('If no exchange lists it: INSERT INTO asset (code) VALUES (%L), and a rate to it.', NEW.unit);
  END IF;
  RETURN NEW;
END $$;
COMMENT ON FUNCTION setting_check IS 'Trigger: the unit is a known asset.';
CREATE TRIGGER setting_check BEFORE UPDATE ON setting FOR EACH ROW EXECUTE FUNCTION setting_check();
CREATE TRIGGER kept BEFORE DELETE OR TRUNCATE ON setting FOR EACH STATEMENT EXECUTE FUNCTION refuse('there is always one row; UPDATE it');

-- Prices, and whether venues could be asked for them.
CREATE TABLE ticker (
  market_id  int PRIMARY KEY REFERENCES market ON DELETE CASCADE,
  bid        numeric CONSTRAINT bid_is_finite_and_above_zero CHECK (bid > 0 AND bid < 'Infinity'),
  ask        numeric CONSTRAINT ask_is_finite_and_above_zero CHECK (ask > 0 AND ask < 'Infinity'),
  last       numeric CONSTRAINT last_is_finite_and_above_zero CHECK (last > 0 AND last < 'Infinity'),
  read_at    timestamptz NOT NULL
) WITH (fillfactor = 50);
COMMENT ON TABLE ticker IS 'The last prices of the markets over which rates may lead. Those that nobody asks for go after a day.';
COMMENT ON COLUMN ticker.bid IS 'What somebody pays, in quote for one base; NULL: nobody does.';
COMMENT ON COLUMN ticker.ask IS 'What somebody sells for, in quote for one base; NULL: nobody does.';
COMMENT ON COLUMN ticker.last IS 'The last trade; NULL: the venue tells none.';
COMMENT ON COLUMN ticker.read_at IS 'When the venue was read.';
CREATE TRIGGER written BEFORE INSERT OR UPDATE OR DELETE ON ticker FOR EACH STATEMENT
  EXECUTE FUNCTION only_from_processes('it is what the venue said; to set a rate: INSERT INTO rates');

CREATE TABLE price_read (
  exchange_id  smallint PRIMARY KEY REFERENCES exchange ON DELETE CASCADE,
  read_at      timestamptz,
  failed_at    timestamptz,
  error        text
) WITH (fillfactor = 50);
COMMENT ON TABLE price_read IS 'When each exchange was last asked for the prices that rates need. One that failed is left alone for half a minute.';
COMMENT ON COLUMN price_read.read_at IS 'The last time that it answered.';
COMMENT ON COLUMN price_read.failed_at IS 'The last time that it could not be read; NULL after a good one.';
COMMENT ON COLUMN price_read.error IS 'Why; NULL after a good one.';
CREATE TRIGGER written BEFORE INSERT OR UPDATE OR DELETE ON price_read FOR EACH STATEMENT
  EXECUTE FUNCTION only_from_processes('it is how the last reading went');

-- Rates.
CREATE TYPE rate_source AS ENUM ('market', 'fixed');

CREATE TABLE asset_rate (
  asset_id   smallint NOT NULL REFERENCES asset,
  unit_id    smallint NOT NULL REFERENCES asset,
  rate       numeric CONSTRAINT rate_is_finite_and_above_zero CHECK (rate > 0 AND rate < 'Infinity'),
  source     rate_source NOT NULL DEFAULT 'fixed',
  path       text[] NOT NULL DEFAULT '{}',
  priced_at  timestamptz,
  tried_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
  reason     text,
  PRIMARY KEY (asset_id, unit_id),
  CONSTRAINT an_asset_in_itself_needs_no_rate CHECK (asset_id <> unit_id),
  CONSTRAINT a_rate_has_its_moment CHECK ((rate IS NULL) = (priced_at IS NULL)),
  CONSTRAINT a_fixed_rate_is_a_number CHECK (source <> 'fixed' OR rate IS NOT NULL)
) WITH (fillfactor = 50);
COMMENT ON TABLE asset_rate IS 'Units of one asset for one of another, over the shortest way of markets with fresh prices. A job keeps those that somebody needs; a person may fix one, which is a way for others, too. By names: rates.';
COMMENT ON COLUMN asset_rate.unit_id IS 'In what it is told.';
COMMENT ON COLUMN asset_rate.rate IS 'Units for one of the asset. NULL: no way with fresh prices was ever found.';
COMMENT ON COLUMN asset_rate.source IS 'market: computed by a job; fixed: what a person said, which no job touches and which never gets old.';
COMMENT ON COLUMN asset_rate.path IS 'The markets from the asset to the unit, in this order; a step fixed:A/B is a rate that a person fixed.';
COMMENT ON COLUMN asset_rate.priced_at IS 'When its oldest price was true; of a fixed rate, when it was set.';
COMMENT ON COLUMN asset_rate.tried_at IS 'When a job last tried to renew it.';
COMMENT ON COLUMN asset_rate.reason IS 'Why the last try brought nothing newer; NULL if it did.';

CREATE TABLE asset_rate_point (
  asset_id  smallint NOT NULL REFERENCES asset,
  unit_id   smallint NOT NULL REFERENCES asset,
  at        timestamptz NOT NULL,
  rate      numeric NOT NULL,
  PRIMARY KEY (asset_id, unit_id, at)
);
COMMENT ON TABLE asset_rate_point IS 'How rates went: a point a minute where they change, after a day one an hour, after a year one a day.';
COMMENT ON COLUMN asset_rate_point.unit_id IS 'In what it is told.';
COMMENT ON COLUMN asset_rate_point.at IS 'When the prices were true.';
COMMENT ON COLUMN asset_rate_point.rate IS 'Units for one of the asset.';

CREATE FUNCTION asset_rate_check() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF process() = '' AND NEW.source <> 'fixed' THEN
    RAISE EXCEPTION '% on "asset_rate" is refused: rates of markets are computed; a person writes fixed ones: INSERT INTO rates (asset, unit, rate) VALUES (...)', TG_OP
      USING ERRCODE = 'restrict_violation';
  END IF;
  IF NEW.source = 'fixed' THEN
    NEW.path := '{}';
    NEW.reason := NULL;
    NEW.priced_at := CASE WHEN NEW.rate IS NOT NULL THEN clock_timestamp() END;
  END IF;
  RETURN NEW;
END $$;
COMMENT ON FUNCTION asset_rate_check IS 'Trigger: a person writes fixed rates only.';
CREATE TRIGGER asset_rate_check BEFORE INSERT OR UPDATE ON asset_rate FOR EACH ROW EXECUTE FUNCTION asset_rate_check();

CREATE FUNCTION asset_rate_follow() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
  INSERT INTO asset_rate_point (asset_id, unit_id, at, rate)
    SELECT NEW.asset_id, NEW.unit_id, NEW.priced_at, NEW.rate
      FROM (SELECT NEW.priced_at AS at) n
      LEFT JOIN LATERAL (SELECT at, rate FROM asset_rate_point WHERE asset_id = NEW.asset_id AND unit_id = NEW.unit_id ORDER BY at DESC LIMIT 1) p ON true
     WHERE p.at IS NULL OR (p.rate <> NEW.rate AND (n.at >= p.at + interval '1 min' OR (NEW.source = 'fixed' AND n.at > p.at)))
    ON CONFLICT (asset_id, unit_id, at) DO NOTHING;
  RETURN NULL;
END $$;
COMMENT ON FUNCTION asset_rate_follow IS 'Trigger: how rates went.';
REVOKE EXECUTE ON FUNCTION asset_rate_follow() FROM PUBLIC;
CREATE TRIGGER asset_rate_follow AFTER INSERT OR UPDATE ON asset_rate FOR EACH ROW WHEN (NEW.rate IS NOT NULL) EXECUTE FUNCTION asset_rate_follow();
CREATE TRIGGER written BEFORE INSERT OR UPDATE OR DELETE ON asset_rate_point FOR EACH STATEMENT
  EXECUTE FUNCTION only_from_processes('it follows asset_rate');
CREATE TRIGGER kept BEFORE TRUNCATE ON asset_rate_point FOR EACH STATEMENT EXECUTE FUNCTION refuse('it follows asset_rate');

CREATE FUNCTION unit_rate(p_asset smallint) RETURNS TABLE (unit text, rate numeric, state text, age interval) LANGUAGE sql STABLE ROWS 1 AS $$
  SELECT s.unit, CASE WHEN a.code = s.unit THEN 1 ELSE r.rate END,
         CASE WHEN a.code = s.unit THEN 'unit' WHEN r.rate IS NULL THEN 'missing' WHEN r.source = 'fixed' THEN 'fixed'
              WHEN r.priced_at < statement_timestamp() - s.rate_fresh THEN 'stale' ELSE 'fresh' END,
         CASE WHEN a.code <> s.unit AND r.source = 'market' AND r.rate IS NOT NULL THEN date_trunc('seconds', greatest(statement_timestamp() - r.priced_at, '0')) END
    FROM setting s JOIN asset a ON a.id = p_asset LEFT JOIN asset u ON u.code = s.unit LEFT JOIN asset_rate r ON r.asset_id = a.id AND r.unit_id = u.id $$;
COMMENT ON FUNCTION unit_rate IS 'What one of an asset is worth in setting.unit; state is unit (it is the unit itself), fixed, fresh, stale (its prices are older than setting.rate_fresh) or missing, and then rate is NULL.';

CREATE VIEW rates AS
  SELECT a.code AS asset, u.code AS unit, trim_scale(r.rate) AS rate,
         CASE WHEN r.rate IS NULL THEN 'missing' WHEN r.source = 'fixed' THEN 'fixed' WHEN r.priced_at < statement_timestamp() - s.rate_fresh THEN 'stale' ELSE 'fresh' END AS state,
         CASE WHEN r.source = 'market' AND r.rate IS NOT NULL THEN date_trunc('seconds', greatest(statement_timestamp() - r.priced_at, '0')) END AS age, r.path, r.priced_at, r.reason
    FROM asset_rate r
    JOIN asset a ON a.id = r.asset_id
    JOIN asset u ON u.id = r.unit_id
    CROSS JOIN setting s;
COMMENT ON VIEW rates IS 'Rates by names. A person fixes one by INSERT INTO rates (asset, unit, rate), changes it by UPDATE, and DELETE gives it back to the markets.';
COMMENT ON COLUMN rates.unit IS 'In what it is told.';
COMMENT ON COLUMN rates.rate IS 'Units for one of the asset; NULL: missing.';
COMMENT ON COLUMN rates.state IS 'fixed, fresh, stale (its prices are older than setting.rate_fresh) or missing.';
COMMENT ON COLUMN rates.age IS 'Since its oldest price was true; NULL: it is fixed or missing.';
COMMENT ON COLUMN rates.path IS 'The markets from the asset to the unit, in this order.';
COMMENT ON COLUMN rates.priced_at IS 'When its oldest price was true; of a fixed rate, when it was set.';
COMMENT ON COLUMN rates.reason IS 'Why the last try brought nothing newer; NULL if it did.';

CREATE FUNCTION rates_write() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
  asset_ smallint;
  unit_ smallint;
BEGIN
  IF TG_OP <> 'INSERT' THEN
    SELECT a.id, u.id INTO asset_, unit_ FROM asset a, asset u WHERE a.code = OLD.asset AND u.code = OLD.unit;
  END IF;
  IF TG_OP = 'DELETE' THEN
    DELETE FROM asset_rate WHERE asset_id = asset_ AND unit_id = unit_;
    RETURN OLD;
  END IF;
  IF TG_OP = 'UPDATE' THEN
    IF (NEW.asset, NEW.unit) IS DISTINCT FROM (OLD.asset, OLD.unit) THEN
      RAISE EXCEPTION 'asset and unit of a rate are fixed: DELETE FROM rates and insert another' USING ERRCODE = 'restrict_violation';
    END IF;
    UPDATE asset_rate SET rate = NEW.rate, source = 'fixed' WHERE asset_id = asset_ AND unit_id = unit_;
    RETURN NEW;
  END IF;
  SELECT id INTO asset_ FROM asset WHERE code = NEW.asset;
  SELECT id INTO unit_ FROM asset WHERE code = NEW.unit;
  IF asset_ IS NULL OR unit_ IS NULL THEN
    RAISE EXCEPTION 'unknown % "%": it is an asset, such as USDT', CASE WHEN asset_ IS NULL THEN 'asset' ELSE 'unit' END,
      coalesce(CASE WHEN asset_ IS NULL THEN NEW.asset ELSE NEW.unit END, '')
      USING ERRCODE = 'foreign_key_violation', HINT = 'If no exchange lists it: INSERT INTO asset (code) VALUES (...).';
  END IF;
  INSERT INTO asset_rate (asset_id, unit_id, rate, source) VALUES (asset_, unit_, NEW.rate, 'fixed')
    ON CONFLICT (asset_id, unit_id) DO UPDATE SET rate = EXCLUDED.rate, source = 'fixed';
  SELECT * INTO NEW FROM rates r WHERE r.asset = NEW.asset AND r.unit = NEW.unit;
  RETURN NEW;
END $$;
COMMENT ON FUNCTION rates_write IS 'Trigger: what a person writes to rates is a fixed rate.';
CREATE TRIGGER rates_write INSTEAD OF INSERT OR UPDATE OR DELETE ON rates FOR EACH ROW EXECUTE FUNCTION rates_write();

-- Balances: when the venue was last read.
CREATE TABLE account_read (
  account_id  smallint PRIMARY KEY REFERENCES account,
  read_at     timestamptz,
  failed_at   timestamptz,
  error       text
) WITH (fillfactor = 50);
COMMENT ON TABLE account_read IS 'How the last readings of each account''s balances went. What could not be read leaves account_balance as it was.';
COMMENT ON COLUMN account_read.read_at IS 'When they were last read and stored; NULL: never.';
COMMENT ON COLUMN account_read.failed_at IS 'When they last could not be read; NULL after a good reading.';
COMMENT ON COLUMN account_read.error IS 'Why; NULL after a good one.';
INSERT INTO account_read (account_id, read_at) SELECT account_id, max(read_at) FROM account_balance GROUP BY 1;
CREATE TRIGGER written BEFORE INSERT OR UPDATE OR DELETE ON account_read FOR EACH STATEMENT
  EXECUTE FUNCTION only_from_processes('it is how the last reading went');

CREATE VIEW account_value AS
  SELECT c.name AS account, e.name AS exchange, c.mode::text AS mode, a.code AS asset, trim_scale(b.total) AS total, trim_scale(b.free) AS free, trim_scale(b.used) AS used,
         round(b.total * r.rate, 8) AS value, r.unit, r.state AS rate_state, r.age AS rate_age, b.read_at,
         date_trunc('seconds', greatest(statement_timestamp() - b.read_at, '0')) AS age,
         d.failed_at IS NOT NULL OR b.read_at < statement_timestamp() - s.balance_fresh AS stale
    FROM account c
    JOIN exchange e ON e.id = c.exchange_id
    JOIN account_balance b ON b.account_id = c.id AND (b.total, b.free, b.used) <> (0, 0, 0)
    JOIN asset a ON a.id = b.asset_id
    CROSS JOIN setting s
    LEFT JOIN account_read d ON d.account_id = c.id
    CROSS JOIN LATERAL unit_rate(b.asset_id) r;
COMMENT ON VIEW account_value IS 'What each account has at its venue, and what it is worth. A venue that cannot be read keeps its last values, marked stale.';
COMMENT ON COLUMN account_value.exchange IS 'Our name of the venue.';
COMMENT ON COLUMN account_value.mode IS 'simulator, paper, sandbox or live.';
COMMENT ON COLUMN account_value.total IS 'As the venue said: free and used.';
COMMENT ON COLUMN account_value.free IS 'As the venue said: not in its open orders.';
COMMENT ON COLUMN account_value.used IS 'As the venue said: in its open orders.';
COMMENT ON COLUMN account_value.value IS 'total in unit; NULL: nobody knows its rate.';
COMMENT ON COLUMN account_value.unit IS 'That of setting.unit.';
COMMENT ON COLUMN account_value.rate_state IS 'How well its rate is known: unit (it is the unit itself), fixed, fresh, stale or missing. See rates.';
COMMENT ON COLUMN account_value.rate_age IS 'Since the oldest price of its rate was true.';
COMMENT ON COLUMN account_value.read_at IS 'When the venue said so.';
COMMENT ON COLUMN account_value.age IS 'Since then.';
COMMENT ON COLUMN account_value.stale IS 'The last reading failed, or it is longer ago than setting.balance_fresh.';

CREATE VIEW account_total AS
  SELECT x.mode, x.account, x.exchange, round(sum(x.value), 8) AS value, min(x.unit) AS unit, count(x.asset) AS assets,
         array_agg(DISTINCT x.asset ORDER BY x.asset) FILTER (WHERE x.rate_state = 'missing') AS unpriced,
         array_agg(DISTINCT x.asset ORDER BY x.asset) FILTER (WHERE x.rate_state = 'stale') AS old_rates, max(x.rate_age) AS rate_age,
         min(x.read_at) AS read_at, CASE WHEN min(x.read_at) IS NOT NULL THEN date_trunc('seconds', greatest(statement_timestamp() - min(x.read_at), '0')) END AS age,
         bool_or(x.stale) AS stale, string_agg(DISTINCT x.note, '; ') AS note
    FROM (SELECT c.mode::text AS mode, c.name AS account, e.name AS exchange, s.unit, v.asset, v.rate_state, v.rate_age, d.read_at,
                 CASE WHEN v.asset IS NOT NULL THEN v.value WHEN d.read_at IS NOT NULL THEN 0 END AS value, k.stale,
                 CASE WHEN k.stale THEN format('%s: %s', c.name, CASE WHEN d.failed_at IS NOT NULL THEN 'could not be read: ' || d.error WHEN d.read_at IS NULL THEN 'was never read'
                   ELSE 'was not read lately' END) END AS note
            FROM account c
            JOIN exchange e ON e.id = c.exchange_id
            CROSS JOIN setting s
            LEFT JOIN account_read d ON d.account_id = c.id
            LEFT JOIN account_value v ON v.account = c.name
            CROSS JOIN LATERAL (SELECT d.failed_at IS NOT NULL OR d.read_at IS NULL OR d.read_at < statement_timestamp() - s.balance_fresh AS stale) k) x
   GROUP BY GROUPING SETS ((x.mode, x.account, x.exchange), (x.mode));
COMMENT ON VIEW account_total IS 'What each account is worth in setting.unit, and with account NULL all of a mode: play money is never added to real money.';
COMMENT ON COLUMN account_total.mode IS 'simulator, paper, sandbox or live.';
COMMENT ON COLUMN account_total.account IS 'NULL: all accounts of this mode.';
COMMENT ON COLUMN account_total.exchange IS 'Our name of the venue; NULL: all of them.';
COMMENT ON COLUMN account_total.value IS 'What is owned, without what is in unpriced. NULL: never read, or nothing of it has a rate.';
COMMENT ON COLUMN account_total.unit IS 'That of setting.unit.';
COMMENT ON COLUMN account_total.assets IS 'Balances that are not zero.';
COMMENT ON COLUMN account_total.unpriced IS 'Assets that are left out because nobody knows their rate.';
COMMENT ON COLUMN account_total.old_rates IS 'Assets that are in it at a rate that is stale.';
COMMENT ON COLUMN account_total.rate_age IS 'Of the oldest rate in it.';
COMMENT ON COLUMN account_total.read_at IS 'When the account was last read; of several, the one that was read longest ago.';
COMMENT ON COLUMN account_total.age IS 'Since then.';
COMMENT ON COLUMN account_total.stale IS 'Balances in it are the last that were known: see note.';
COMMENT ON COLUMN account_total.note IS 'Which account is stale, and why.';

-- What strategies have, in the same unit: more columns of the views that are there.
CREATE OR REPLACE VIEW holding AS
  SELECT s.name AS strategy, c.name AS account, a.code AS asset, trim_scale(b.total) AS total, trim_scale(b.held) AS held,
         round(k.cost / nullif(k.quantity, 0), 8) AS average_cost, round(p.price, 8) AS price, round(b.total * p.price, 8) AS value, u.code AS unit,
         round(b.total * r.rate, 8) AS common_value, r.unit AS common_unit, r.state AS rate_state, r.age AS rate_age
    FROM strategy s
    JOIN account c ON c.id = s.account_id
    JOIN asset u ON u.id = s.unit_id
    JOIN ledger_account l ON l.strategy_id = s.id
    JOIN balance b ON b.ledger_account_id = l.id AND b.total <> 0
    JOIN asset a ON a.id = b.asset_id
    LEFT JOIN market m ON m.exchange_id = c.exchange_id AND m.base_id = b.asset_id AND m.quote_id = s.unit_id
    LEFT JOIN position k ON k.strategy_id = s.id AND k.market_id = m.id
    CROSS JOIN LATERAL (SELECT asset_price(b.asset_id, s.unit_id, c.exchange_id) AS price) p
    CROSS JOIN LATERAL unit_rate(b.asset_id) r;
COMMENT ON COLUMN holding.common_value IS 'total in common_unit, over as many markets as it takes; NULL: nobody knows its rate.';
COMMENT ON COLUMN holding.common_unit IS 'That of setting.unit, the same for all strategies.';
COMMENT ON COLUMN holding.rate_state IS 'How well the rate to common_unit is known: unit (it is the unit itself), fixed, fresh, stale or missing. See rates.';
COMMENT ON COLUMN holding.rate_age IS 'Since the oldest price of that rate was true.';

CREATE OR REPLACE VIEW performance AS
  SELECT e.strategy, e.unit, round(f.deposits, 8) AS deposits, round(f.withdrawals, 8) AS withdrawals, round(e.equity, 8) AS equity,
         round(e.equity - e.paid_in, 8) AS profit, round(p.realised, 8) AS realised, round(p.unrealised, 8) AS unrealised, round(p.fees, 8) AS fees,
         round(100 * (e.unit_value - 1), 4) AS return_percent,
         round(100 * greatest(d.max_drawdown, 1 - e.unit_value / greatest(d.peak, e.unit_value, 1)), 4) AS max_drawdown_percent,
         p.trades, round(100.0 * p.wins / nullif(p.trades, 0), 2) AS win_percent, e.unpriced,
         round(v.equity, 8) AS common_equity, CASE WHEN v.unpriced IS NULL THEN round(v.equity - e.paid_in * r.rate, 8) END AS common_profit, r.unit AS common_unit, v.unpriced AS common_unpriced,
         v.old_rates, greatest(v.rate_age, CASE WHEN e.paid_in <> 0 THEN r.age END) AS rate_age
    FROM equity e
    JOIN strategy s ON s.id = e.strategy_id
    JOIN account c ON c.id = s.account_id
    LEFT JOIN drawdown d ON d.strategy_id = s.id
    CROSS JOIN LATERAL unit_rate(s.unit_id) r
    CROSS JOIN LATERAL (SELECT coalesce(sum(value) FILTER (WHERE value > 0), 0) AS deposits, coalesce(-sum(value) FILTER (WHERE value < 0), 0) AS withdrawals
                          FROM flow WHERE strategy_id = s.id) f
    CROSS JOIN LATERAL (
      SELECT coalesce(sum(k.realised * r.rate), 0) AS realised, coalesce(sum((CASE WHEN k.quantity = 0 THEN 0 ELSE k.quantity * market_price(m.id) END - k.cost) * r.rate), 0) AS unrealised,
             coalesce(sum(k.fees * r.rate), 0) AS fees, coalesce(sum(k.trades), 0)::int AS trades, coalesce(sum(k.wins), 0)::int AS wins
        FROM position k JOIN market m ON m.id = k.market_id
        CROSS JOIN LATERAL (SELECT asset_price(m.quote_id, s.unit_id, c.exchange_id) AS rate) r
       WHERE k.strategy_id = s.id) p
    CROSS JOIN LATERAL (
      SELECT CASE WHEN count(*) = 0 THEN 0 ELSE sum(b.total * w.rate) END AS equity, array_agg(a.code ORDER BY a.code) FILTER (WHERE w.state = 'missing') AS unpriced,
             array_agg(a.code ORDER BY a.code) FILTER (WHERE w.state = 'stale') AS old_rates, max(w.age) AS rate_age
        FROM ledger_account l JOIN balance b ON b.ledger_account_id = l.id AND b.total <> 0 JOIN asset a ON a.id = b.asset_id
        CROSS JOIN LATERAL unit_rate(b.asset_id) w
       WHERE l.strategy_id = s.id) v;
COMMENT ON COLUMN performance.common_equity IS 'Everything it has in common_unit, over as many markets as it takes, without what is in common_unpriced; NULL: nothing of it has a rate.';
COMMENT ON COLUMN performance.common_profit IS 'common_equity minus what was paid in, net, at the rate of today; NULL: a rate is missing.';
COMMENT ON COLUMN performance.common_unit IS 'That of setting.unit, the same for all strategies.';
COMMENT ON COLUMN performance.common_unpriced IS 'Assets that are left out of common_equity because nobody knows their rate.';
COMMENT ON COLUMN performance.old_rates IS 'Assets that are in common_equity at a rate that is stale.';
COMMENT ON COLUMN performance.rate_age IS 'Of the oldest rate in common_equity and common_profit.';

CREATE VIEW equity_history AS
  SELECT s.name AS strategy, p.at, p.equity, a.code AS unit, p.unit_value, round(p.equity * CASE WHEN a.code = t.unit THEN 1 ELSE r.rate END, 8) AS common_equity,
         t.unit AS common_unit, p.at - r.at AS rate_age
    FROM equity_point p
    JOIN strategy s ON s.id = p.strategy_id
    JOIN asset a ON a.id = s.unit_id
    CROSS JOIN setting t
    LEFT JOIN asset u ON u.code = t.unit
    LEFT JOIN LATERAL (SELECT o.rate, o.at FROM asset_rate_point o WHERE o.asset_id = s.unit_id AND o.unit_id = u.id AND o.at <= p.at ORDER BY o.at DESC LIMIT 1) r ON true;
COMMENT ON VIEW equity_history IS 'equity_point by names, and in setting.unit at the rates of then. Grows with time: filter by strategy and at.';
COMMENT ON COLUMN equity_history.at IS 'When it was sampled.';
COMMENT ON COLUMN equity_history.equity IS 'The strategy''s worth then, in its unit.';
COMMENT ON COLUMN equity_history.unit IS 'The asset that the strategy is told in.';
COMMENT ON COLUMN equity_history.unit_value IS 'Equity per unit bought by deposits.';
COMMENT ON COLUMN equity_history.common_equity IS 'The same in common_unit, at the rate of that moment; NULL: no rate was known then.';
COMMENT ON COLUMN equity_history.common_unit IS 'That of setting.unit.';
COMMENT ON COLUMN equity_history.rate_age IS 'How long before that moment the rate was last seen to change.';

-- Markets: what the venue says of each, and what happens when it stops trading one.
ALTER TABLE exchange ADD COLUMN synced_at timestamptz;
COMMENT ON COLUMN exchange.synced_at IS 'When its markets were last read.';
ALTER TABLE market ADD COLUMN status text, ADD COLUMN listed boolean NOT NULL DEFAULT true, ADD COLUMN inactive_since timestamptz;
UPDATE market SET inactive_since = synced_at WHERE NOT active;
COMMENT ON COLUMN market.status IS 'The venue''s own word for its state: TRADING, BREAK, cancel_only. NULL: it has none.';
COMMENT ON COLUMN market.listed IS 'False: the venue lists it no more.';
COMMENT ON COLUMN market.inactive_since IS 'When it was first seen not to trade; NULL: it trades.';
COMMENT ON COLUMN market.active IS 'False: the venue does not trade it now; orders on it are denied and its feeds stand still. They go on by themselves when it trades again.';

CREATE FUNCTION market_trouble(p_market int) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT format('market is %s at the venue since %s UTC', CASE WHEN listed THEN 'halted' || coalesce(' (' || status || ')', '') ELSE 'delisted' END,
                to_char(inactive_since AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI'))
    FROM market WHERE id = p_market AND NOT active $$;
COMMENT ON FUNCTION market_trouble IS 'Why a market cannot be used, in a sentence for a person; NULL: it can.';

CREATE FUNCTION market_check() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.inactive_since := CASE WHEN NEW.active THEN NULL WHEN TG_OP = 'INSERT' OR OLD.active THEN clock_timestamp() ELSE OLD.inactive_since END;
  RETURN NEW;
END $$;
COMMENT ON FUNCTION market_check IS 'Trigger: since when a market does not trade.';
CREATE TRIGGER market_check BEFORE INSERT OR UPDATE ON market FOR EACH ROW EXECUTE FUNCTION market_check();

CREATE FUNCTION market_kept() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
  what text := concat_ws(', ', CASE WHEN EXISTS (SELECT FROM bucket_feed WHERE market_id = OLD.id) THEN 'candles or feeds' END,
    CASE WHEN EXISTS (SELECT FROM "order" WHERE market_id = OLD.id) THEN 'orders and fills' END,
    CASE WHEN EXISTS (SELECT FROM position WHERE market_id = OLD.id) THEN 'positions' END,
    CASE WHEN EXISTS (SELECT FROM strategy WHERE market_id = OLD.id) THEN 'strategies' END);
BEGIN
  IF what <> '' THEN
    RAISE EXCEPTION 'market % is kept: it has %', (SELECT name || ':' || OLD.symbol FROM exchange WHERE id = OLD.exchange_id), what
      USING ERRCODE = 'restrict_violation', HINT = 'One that the venue does not trade is inactive by itself; to stop a feed: UPDATE bucket_feed SET enabled = false.';
  END IF;
  RETURN OLD;
END $$;
COMMENT ON FUNCTION market_kept IS 'Trigger: a market to which anything refers stays.';
CREATE TRIGGER market_kept BEFORE DELETE ON market FOR EACH ROW EXECUTE FUNCTION market_kept();
CREATE TRIGGER kept BEFORE TRUNCATE ON market FOR EACH STATEMENT EXECUTE FUNCTION refuse('candles, orders and fills refer to them');

-- A feed keeps what its person wishes in enabled; that its market stands still shows in status and last_error, whoever writes the row.
CREATE FUNCTION bucket_feed_follow_market() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
  trouble text := market_trouble(NEW.market_id);
BEGIN
  IF trouble IS NOT NULL THEN
    NEW.status := 'error';
    NEW.error_at := CASE WHEN TG_OP = 'UPDATE' AND OLD.last_error = trouble THEN OLD.error_at ELSE clock_timestamp() END;
    NEW.last_error := trouble;
    RETURN jsonb_populate_record(NEW, '{"due_at": "9000-01-01Z", "backfill_at": "9000-01-01Z"}');  -- nothing, where there are no such columns
  ELSIF TG_OP = 'UPDATE' AND NEW.last_error IS NULL AND OLD.last_error LIKE 'market is % at the venue since %' THEN
    RETURN jsonb_populate_record(NEW, jsonb_build_object('due_at', clock_timestamp(), 'backfill_at', clock_timestamp()));
  END IF;
  RETURN NEW;
END $$;
COMMENT ON FUNCTION bucket_feed_follow_market IS 'Trigger: a feed of a market that the venue does not trade says so.';
CREATE TRIGGER follow_market BEFORE INSERT OR UPDATE ON bucket_feed FOR EACH ROW WHEN (NEW.enabled) EXECUTE FUNCTION bucket_feed_follow_market();

CREATE FUNCTION market_stops_or_goes_on() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
  name text := (SELECT e.name || ':' || NEW.symbol FROM exchange e WHERE e.id = NEW.exchange_id);
BEGIN
  IF NEW.active THEN
    UPDATE bucket_feed SET status = CASE WHEN newest IS NULL THEN 'absent' ELSE 'building' END::feed_status, last_error = NULL, error_at = NULL, updated_at = NULL
     WHERE market_id = NEW.id AND status = 'error' AND last_error LIKE 'market is % at the venue since %';
    UPDATE incident SET resolved_at = clock_timestamp() WHERE kind = 'market inactive' AND resolved_at IS NULL AND starts_with(message, name || ': ');
    RETURN NULL;
  END IF;
  UPDATE bucket_feed SET updated_at = updated_at WHERE market_id = NEW.id AND enabled;
  IF OLD.active THEN
    INSERT INTO incident (severity, kind, message, account_id)
      SELECT 'warning', 'market inactive', format('%s: %s; %s', name, market_trouble(NEW.id), string_agg(x.what, ', ' ORDER BY x.what)), x.account_id
        FROM (SELECT s.account_id, format(CASE WHEN coalesce(k.quantity, 0) <> 0 THEN 'strategy %s holds %s of it' ELSE 'strategy %s trades on it' END, s.name, trim_scale(k.quantity)) AS what
                FROM strategy s LEFT JOIN position k ON k.strategy_id = s.id AND k.market_id = NEW.id
               WHERE coalesce(k.quantity, 0) <> 0 OR (s.market_id = NEW.id AND s.enabled)
              UNION ALL
              SELECT c.id, format('order %s is open on it', o.id) FROM account c JOIN "order" o ON o.account_id = c.id AND o.market_id = NEW.id
               WHERE c.exchange_id = NEW.exchange_id AND o.status IN ('accepted', 'partially_filled', 'pending_cancel')) x
       GROUP BY x.account_id ORDER BY x.account_id;
  END IF;
  RETURN NULL;
END $$;
COMMENT ON FUNCTION market_stops_or_goes_on IS 'Trigger: feeds of a market that stops say so and go on when it does; whoever has strategies or orders on it is told by an incident.';
CREATE TRIGGER market_stops_or_goes_on AFTER UPDATE ON market FOR EACH ROW
  WHEN (OLD.active <> NEW.active OR (NOT NEW.active AND (OLD.listed, OLD.status) IS DISTINCT FROM (NEW.listed, NEW.status))) EXECUTE FUNCTION market_stops_or_goes_on();
UPDATE bucket_feed f SET updated_at = f.updated_at FROM market m WHERE m.id = f.market_id AND NOT m.active AND f.enabled;

GRANT SELECT ON setting, ticker, price_read, asset_rate, asset_rate_point, rates, account_read, account_value, account_total, equity_history TO tallydesk_reader, tallydesk_user;
GRANT UPDATE (unit, rate_fresh, balance_fresh) ON setting TO tallydesk_user;
GRANT INSERT (asset_id, unit_id, rate, source), UPDATE (rate, source), DELETE ON asset_rate TO tallydesk_user;
GRANT INSERT, UPDATE, DELETE ON rates TO tallydesk_user;
