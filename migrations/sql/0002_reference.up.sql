-- What the rest refers to: assets, exchanges, accounts, markets, timeframes, strategies.

-- NaN sorts above Infinity in PostgreSQL, so "x > 0" alone lets NaN in: the upper bound is what keeps it out.
CREATE DOMAIN amount AS numeric(38, 18)
  CONSTRAINT must_be_a_finite_number CHECK (VALUE > '-Infinity' AND VALUE < 'Infinity');
CREATE DOMAIN positive_amount AS numeric(38, 18)
  CONSTRAINT must_be_a_finite_number_above_zero CHECK (VALUE > 0 AND VALUE < 'Infinity');
COMMENT ON DOMAIN amount IS 'A finite amount of money or of an asset: 18 decimals.';
COMMENT ON DOMAIN positive_amount IS 'A finite amount above zero.';

CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '% on "%" is refused: %', TG_OP, TG_TABLE_NAME, TG_ARGV[0] USING ERRCODE = 'restrict_violation';
END $$;
COMMENT ON FUNCTION refuse IS 'Trigger: no statement of this kind on this table; the argument says what to do instead.';

CREATE FUNCTION only_from_triggers() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF pg_trigger_depth() < 2 THEN
    RAISE EXCEPTION '% on "%" is refused: %', TG_OP, TG_TABLE_NAME, TG_ARGV[0] USING ERRCODE = 'restrict_violation';
  END IF;
  RETURN NULL;
END $$;
COMMENT ON FUNCTION only_from_triggers IS 'Trigger: this table follows other rows and is written by their triggers alone.';

CREATE FUNCTION only_from_processes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF process() = '' AND pg_trigger_depth() < 2 THEN
    RAISE EXCEPTION '% on "%" is refused: %', TG_OP, TG_TABLE_NAME, TG_ARGV[0] USING ERRCODE = 'restrict_violation';
  END IF;
  RETURN NULL;
END $$;
COMMENT ON FUNCTION only_from_processes IS 'Trigger: this table is written by Tallydesk''s processes, never by a person.';

CREATE FUNCTION process() RETURNS text LANGUAGE sql STABLE AS $$
  SELECT coalesce(current_setting('tallydesk.process', true), '') $$;
COMMENT ON FUNCTION process IS 'Which Tallydesk process this connection belongs to (trader, worker, ...); empty for a person.';

CREATE TABLE asset (
  id    smallint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  code  text NOT NULL UNIQUE CONSTRAINT code_has_no_spaces CHECK (code ~ '^\S+$')
);
COMMENT ON TABLE asset IS 'Something that can be owned: a currency, a coin, a token. Filled by the market sync.';
COMMENT ON COLUMN asset.code IS 'The name that ccxt uses: BTC, USDT.';
CREATE TRIGGER fixed BEFORE UPDATE ON asset FOR EACH STATEMENT EXECUTE FUNCTION refuse('the books name it; insert another asset');

CREATE TABLE exchange (
  id          smallint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name        text NOT NULL UNIQUE CONSTRAINT name_has_no_spaces_or_colons CHECK (name ~ '^[^\s:]+$'),
  ccxt_id     text NOT NULL,
  replay      boolean NOT NULL DEFAULT false,
  options     jsonb NOT NULL DEFAULT '{}' CONSTRAINT options_is_an_object CHECK (jsonb_typeof(options) = 'object'),
  created_at  timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT options_hold_no_secret_put_it_in_the_environment CHECK (NOT jsonb_path_exists(options,
    '$.** ? (@.type() == "object").keyvalue() ? (@.key like_regex "(secret|passw|pass_?phrase|api[-_]?key|private[-_]?key|access[-_]?token|authorization)|^(token|login|twofa)$" flag "i")'))
);
COMMENT ON TABLE exchange IS 'A venue as this desk reaches it.';
COMMENT ON COLUMN exchange.name IS 'Our name for it; the part before the colon in binance:BTC/USDT.';
COMMENT ON COLUMN exchange.ccxt_id IS 'Which ccxt class speaks to it.';
COMMENT ON COLUMN exchange.replay IS 'True when its candles are replayed history, whose stamps run on another clock than requests: then only a later candle proves that an earlier one has closed.';
COMMENT ON COLUMN exchange.options IS 'Merged as it is into the ccxt constructor''s config.';

CREATE TYPE account_mode AS ENUM ('simulator', 'paper', 'sandbox', 'live');

CREATE TABLE account (
  id              smallint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name            text NOT NULL UNIQUE CONSTRAINT name_has_no_spaces_or_colons CHECK (name ~ '^[^\s:]+$'),
  exchange_id     smallint NOT NULL REFERENCES exchange,
  mode            account_mode NOT NULL,
  halted          boolean NOT NULL DEFAULT false,
  halt_reason     text,
  credentials     text CONSTRAINT credentials_is_a_prefix_of_environment_variables CHECK (credentials ~ '^[A-Z][A-Z0-9_]*$'),
  options         jsonb NOT NULL DEFAULT '{}' CONSTRAINT options_is_an_object CHECK (jsonb_typeof(options) = 'object'),
  receive_window  interval NOT NULL DEFAULT '5 s'
    CONSTRAINT receive_window_is_between_1_and_60_seconds CHECK (receive_window BETWEEN '1 s' AND '60 s'),
  price_margin    numeric NOT NULL DEFAULT 0.01
    CONSTRAINT price_margin_is_between_0_and_1 CHECK (price_margin >= 0 AND price_margin <= 1),
  created_at      timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT options_hold_no_secret_put_it_in_the_environment CHECK (NOT jsonb_path_exists(options,
    '$.** ? (@.type() == "object").keyvalue() ? (@.key like_regex "(secret|passw|pass_?phrase|api[-_]?key|private[-_]?key|access[-_]?token|authorization)|^(token|login|twofa)$" flag "i")'))
);
COMMENT ON TABLE account IS 'Our credentials and mode at an exchange. UPDATE account SET halted = true stops every send on it, on every machine.';
COMMENT ON COLUMN account.mode IS 'simulator (our own), paper (no key), sandbox (the venue''s test system) or live (real money; also needs TALLYDESK_ALLOW_LIVE=1).';
COMMENT ON COLUMN account.halted IS 'True: nothing new is sent, queued orders are denied; cancels still pass.';
COMMENT ON COLUMN account.halt_reason IS 'Why, for whoever reads it next.';
COMMENT ON COLUMN account.credentials IS 'Prefix of the environment variables with the keys: MAIN stands for MAIN_API_KEY, MAIN_SECRET and MAIN_PASSWORD.';
COMMENT ON COLUMN account.options IS 'Merged as it is into the ccxt constructor''s config, over the exchange''s own options.';
COMMENT ON COLUMN account.receive_window IS 'How long after its own time stamp the venue still accepts a request: past that, "not found" is proof.';
COMMENT ON COLUMN account.price_margin IS 'Share held on top of the last price for a market buy by quantity, whose cost is not known beforehand.';
CREATE TRIGGER fixed BEFORE UPDATE ON account FOR EACH ROW WHEN ((OLD.exchange_id, OLD.mode) IS DISTINCT FROM (NEW.exchange_id, NEW.mode))
  EXECUTE FUNCTION refuse('its books belong to this exchange and mode; add another account');
CREATE TRIGGER kept BEFORE DELETE ON account FOR EACH STATEMENT
  EXECUTE FUNCTION refuse('accounts are kept with their books; to stop one: UPDATE account SET halted = true WHERE name = ...');

CREATE TYPE fee_side AS ENUM ('get', 'give', 'base', 'quote', 'other');

CREATE TABLE market (
  id             int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  exchange_id    smallint NOT NULL REFERENCES exchange,
  symbol         text NOT NULL,
  base_id        smallint NOT NULL REFERENCES asset,
  quote_id       smallint NOT NULL REFERENCES asset,
  active         boolean NOT NULL DEFAULT true,
  price_tick     positive_amount,
  quantity_step  positive_amount,
  quantity_min   amount,
  quantity_max   positive_amount,
  cost_min       amount,
  maker_fee      numeric NOT NULL DEFAULT 0 CONSTRAINT maker_fee_is_a_share CHECK (maker_fee > -1 AND maker_fee < 1),
  taker_fee      numeric NOT NULL DEFAULT 0 CONSTRAINT taker_fee_is_a_share CHECK (taker_fee > -1 AND taker_fee < 1),
  fee_side       fee_side NOT NULL DEFAULT 'get',
  synced_at      timestamptz NOT NULL DEFAULT now(),
  UNIQUE (exchange_id, symbol),
  CONSTRAINT base_is_not_quote CHECK (base_id <> quote_id)
);
CREATE INDEX market_base ON market (base_id, quote_id);
CREATE INDEX market_quote ON market (quote_id, base_id);
COMMENT ON TABLE market IS 'A pair that an exchange trades, with its rules as the venue states them (NULL: it states none). Filled by the market sync.';
COMMENT ON COLUMN market.symbol IS 'As ccxt writes it: BTC/USDT.';
COMMENT ON COLUMN market.quantity_min IS 'The least quantity of an order, in base.';
COMMENT ON COLUMN market.quantity_max IS 'The largest quantity of an order, in base.';
COMMENT ON COLUMN market.synced_at IS 'When the market sync last changed this row.';
COMMENT ON COLUMN market.active IS 'False: the venue does not trade it now; orders on it are denied.';
COMMENT ON COLUMN market.price_tick IS 'Prices are multiples of this, in quote.';
COMMENT ON COLUMN market.quantity_step IS 'Quantities are multiples of this, in base.';
COMMENT ON COLUMN market.cost_min IS 'The least quantity x price, in quote.';
COMMENT ON COLUMN market.maker_fee IS 'Share of a trade that rests in the book: 0.001 is 0.1 %.';
COMMENT ON COLUMN market.taker_fee IS 'Share of a trade that takes from the book.';
COMMENT ON COLUMN market.fee_side IS 'Which side of a trade pays the fee, in ccxt''s words: get is what the trade brings in.';
CREATE TRIGGER fixed BEFORE UPDATE ON market FOR EACH ROW
  WHEN ((OLD.exchange_id, OLD.symbol, OLD.base_id, OLD.quote_id) IS DISTINCT FROM (NEW.exchange_id, NEW.symbol, NEW.base_id, NEW.quote_id))
  EXECUTE FUNCTION refuse('its fills are booked by its exchange, symbol, base and quote; they are fixed');

CREATE TABLE timeframe (
  id     smallint PRIMARY KEY,
  name   text NOT NULL UNIQUE,
  span   interval NOT NULL UNIQUE
);
COMMENT ON TABLE timeframe IS 'Lengths of candles, in ccxt''s names.';
COMMENT ON COLUMN timeframe.id IS 'The minutes in it; 32767 for a month.';
COMMENT ON COLUMN timeframe.name IS 'As ccxt writes it: 1h.';
COMMENT ON COLUMN timeframe.span IS 'How long a candle lasts.';
INSERT INTO timeframe (id, name, span) VALUES
  (1, '1m', '1 min'), (3, '3m', '3 min'), (5, '5m', '5 min'), (15, '15m', '15 min'), (30, '30m', '30 min'),
  (60, '1h', '1 h'), (120, '2h', '2 h'), (240, '4h', '4 h'), (360, '6h', '6 h'), (480, '8h', '8 h'), (720, '12h', '12 h'),
  (1440, '1d', '1 day'), (4320, '3d', '3 days'), (10080, '1w', '7 days'), (32767, '1M', '1 month');
CREATE TRIGGER fixed BEFORE UPDATE OR DELETE OR TRUNCATE ON timeframe FOR EACH STATEMENT EXECUTE FUNCTION refuse('stored candles rely on it');

CREATE TABLE strategy (
  id              int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name            text NOT NULL UNIQUE CONSTRAINT name_has_no_spaces CHECK (name ~ '^\S+$'),
  account_id      smallint NOT NULL REFERENCES account,
  unit_id         smallint NOT NULL REFERENCES asset,
  allowance_unit  text NOT NULL,
  stake           positive_amount NOT NULL DEFAULT 100,
  stake_unit      text NOT NULL DEFAULT '%',
  class           text CONSTRAINT class_is_module_colon_class CHECK (class ~ '^[A-Za-z_][\w.]*:[A-Za-z_]\w*$'),
  market_id       int REFERENCES market,
  timeframe_id    smallint REFERENCES timeframe,
  params          jsonb NOT NULL DEFAULT '{}' CONSTRAINT params_is_an_object CHECK (jsonb_typeof(params) = 'object'),
  enabled         boolean NOT NULL DEFAULT true,
  error           text,
  signal          float8,
  last_bucket     timestamptz,
  order_ttl       interval NOT NULL DEFAULT '5 min' CONSTRAINT order_ttl_is_above_zero_and_at_most_a_year CHECK (order_ttl > '0' AND order_ttl <= '1 year'),
  created_at      timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT a_class_needs_a_market_and_a_timeframe CHECK (class IS NULL OR (market_id IS NOT NULL AND timeframe_id IS NOT NULL)),
  CONSTRAINT a_stake_in_percent_is_at_most_100 CHECK (stake_unit <> '%' OR stake <= 100)
);
CREATE INDEX strategy_market ON strategy (market_id, timeframe_id) WHERE enabled;
COMMENT ON TABLE strategy IS 'A funded, named thing that queues orders: a class that a worker runs, or a person at psql (class NULL).';
COMMENT ON COLUMN strategy.unit_id IS 'The asset in which its equity and profit are told.';
COMMENT ON COLUMN strategy.allowance_unit IS 'How the view allowance tells what is free: an asset code, or % of the strategy''s equity.';
COMMENT ON COLUMN strategy.stake IS 'What an order spends when neither quantity nor quote_quantity is given: see stake_unit.';
COMMENT ON COLUMN strategy.stake_unit IS '% of the free allowance, or the code of the market''s quote asset for a fixed amount.';
COMMENT ON COLUMN strategy.class IS 'The code that decides, as module:Class. NULL: orders are written by hand.';
COMMENT ON COLUMN strategy.params IS 'Values for the class''s declared parameters; the rest keep their defaults.';
COMMENT ON COLUMN strategy.enabled IS 'False: it is not run, and its queued orders wait.';
COMMENT ON COLUMN strategy.error IS 'Why its last run failed; NULL after a good one.';
COMMENT ON COLUMN strategy.signal IS 'What it last wanted: target exposure, -1 to 1.';
COMMENT ON COLUMN strategy.last_bucket IS 'The close of the candle it last decided on.';
COMMENT ON COLUMN strategy.order_ttl IS 'An order without expires_at that a trader first sees later than this is denied as stale.';

CREATE FUNCTION strategy_check() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
  quote text;
BEGIN
  IF TG_OP = 'UPDATE' AND (NEW.account_id, NEW.unit_id) IS DISTINCT FROM (OLD.account_id, OLD.unit_id) THEN
    RAISE EXCEPTION 'strategy %: account and unit are fixed; add another strategy instead', OLD.name USING ERRCODE = 'restrict_violation';
  END IF;
  IF NEW.unit_id IS NULL THEN
    SELECT quote_id INTO NEW.unit_id FROM market WHERE id = NEW.market_id;
  END IF;
  NEW.allowance_unit := coalesce(NEW.allowance_unit, (SELECT code FROM asset WHERE id = NEW.unit_id));
  IF NEW.allowance_unit <> '%' AND NOT EXISTS (SELECT FROM asset WHERE code = NEW.allowance_unit) THEN
    RAISE EXCEPTION 'strategy %: allowance_unit "%" is neither %% nor a known asset', NEW.name, NEW.allowance_unit USING ERRCODE = 'check_violation';
  END IF;
  IF NEW.market_id IS NOT NULL THEN
    IF NOT EXISTS (SELECT FROM market m JOIN account a ON a.exchange_id = m.exchange_id WHERE m.id = NEW.market_id AND a.id = NEW.account_id) THEN
      RAISE EXCEPTION 'strategy %: its market is not at the exchange of its account', NEW.name USING ERRCODE = 'check_violation';
    END IF;
    SELECT code INTO quote FROM asset JOIN market ON asset.id = quote_id WHERE market.id = NEW.market_id;
  END IF;
  IF NEW.stake_unit <> '%' AND NEW.stake_unit IS DISTINCT FROM coalesce(quote, (SELECT code FROM asset WHERE id = NEW.unit_id)) THEN
    RAISE EXCEPTION 'strategy %: stake_unit "%" is neither %% nor the quote asset of its market', NEW.name, NEW.stake_unit USING ERRCODE = 'check_violation';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER strategy_check BEFORE INSERT OR UPDATE ON strategy FOR EACH ROW EXECUTE FUNCTION strategy_check();
CREATE TRIGGER kept BEFORE DELETE ON strategy FOR EACH STATEMENT
  EXECUTE FUNCTION refuse('strategies are kept with their history; to stop one: UPDATE strategy SET enabled = false WHERE name = ...');
