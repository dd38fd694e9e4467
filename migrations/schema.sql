-- The whole schema as it stands: what the migrations lead to. Made by scripts/python -m scripts.schema; do not edit.
-- procrastinate's own tables come before it (migrations/sql/0001_procrastinate.up.sql).


----------------------------------------------------------------------------------------------------
-- REFERENCE
----------------------------------------------------------------------------------------------------

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


----------------------------------------------------------------------------------------------------
-- CANDLES
----------------------------------------------------------------------------------------------------

-- Candles: what is kept, and what to keep up to date.

CREATE TYPE bucket_source AS ENUM ('fetched', 'imported', 'derived');

CREATE TABLE bucket (
  id            uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  market_id     int NOT NULL REFERENCES market,
  timeframe_id  smallint NOT NULL REFERENCES timeframe,
  time_close    timestamptz NOT NULL,
  open          float8 NOT NULL,
  high          float8 NOT NULL,
  low           float8 NOT NULL,
  close         float8 NOT NULL,
  volume        float8 NOT NULL,
  source        bucket_source NOT NULL,
  CONSTRAINT one_bucket_per_market_timeframe_and_close UNIQUE (market_id, timeframe_id, time_close),
  CONSTRAINT low_is_the_lowest_and_above_zero CHECK (low > 0 AND low <= open AND low <= close),
  CONSTRAINT high_is_the_highest_and_finite CHECK (high < 'Infinity' AND high >= open AND high >= close),
  CONSTRAINT time_close_is_between_the_years_1970_and_9000 CHECK (time_close BETWEEN '1970-01-01 00:00+00' AND '9000-01-01 00:00+00'),
  CONSTRAINT volume_is_finite_and_not_negative CHECK (volume >= 0 AND volume < 'Infinity')
);
COMMENT ON TABLE bucket IS 'A closed candle: market data as the venue gave it, never invented, never still open.';
COMMENT ON COLUMN bucket.open IS 'First price, in quote.';
COMMENT ON COLUMN bucket.high IS 'Highest price, in quote.';
COMMENT ON COLUMN bucket.low IS 'Lowest price, in quote.';
COMMENT ON COLUMN bucket.close IS 'Last price, in quote.';
COMMENT ON COLUMN bucket.volume IS 'What was traded, in base.';
COMMENT ON COLUMN bucket.id IS 'Time-ordered, so that writing many touches few pages.';
COMMENT ON COLUMN bucket.time_close IS 'The end of the candle, exclusive: a 1h candle that opened at 12:00 closes at 13:00.';
COMMENT ON COLUMN bucket.source IS 'fetched from the venue, imported from a file, or derived from smaller ones.';

CREATE TYPE feed_status AS ENUM ('absent', 'building', 'full', 'error');

CREATE TABLE bucket_feed (
  market_id      int NOT NULL REFERENCES market,
  timeframe_id   smallint NOT NULL REFERENCES timeframe,
  enabled        boolean NOT NULL DEFAULT true,
  status         feed_status NOT NULL DEFAULT 'absent',
  collect_since  timestamptz NOT NULL
    CONSTRAINT collect_since_is_between_the_years_1970_and_9000 CHECK (collect_since BETWEEN '1970-01-01 00:00+00' AND '9000-01-01 00:00+00'),
  oldest         timestamptz,
  newest         timestamptz,
  last_error     text,
  error_at       timestamptz,
  updated_at     timestamptz,
  PRIMARY KEY (market_id, timeframe_id)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
COMMENT ON TABLE bucket_feed IS 'What to keep up to date: UPDATE it in psql and the next tick obeys.';
COMMENT ON COLUMN bucket_feed.error_at IS 'When the last update failed; NULL after a good one.';
COMMENT ON COLUMN bucket_feed.updated_at IS 'When a job last worked on it.';
COMMENT ON COLUMN bucket_feed.enabled IS 'False: not updated; what is stored stays.';
COMMENT ON COLUMN bucket_feed.status IS 'absent: nothing stored; building: history is being fetched; full: up to date; error: see last_error.';
COMMENT ON COLUMN bucket_feed.collect_since IS 'Candles that open before this are not fetched.';
COMMENT ON COLUMN bucket_feed.oldest IS 'From where on the history has been asked for without a hole (an opening time); moving collect_since back fetches the part before.';
COMMENT ON COLUMN bucket_feed.newest IS 'The close of the newest candle stored.';
COMMENT ON COLUMN bucket_feed.last_error IS 'Why the last update failed; NULL after a good one.';


----------------------------------------------------------------------------------------------------
-- ORDER
----------------------------------------------------------------------------------------------------

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


----------------------------------------------------------------------------------------------------
-- LEDGER
----------------------------------------------------------------------------------------------------

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


----------------------------------------------------------------------------------------------------
-- OPERATIONS
----------------------------------------------------------------------------------------------------

-- Running it: who is alive, what went wrong, what the venue says we own, how equity went.

CREATE TABLE role (
  name        text PRIMARY KEY,
  kind        text NOT NULL,
  instance    uuid NOT NULL,
  host        text NOT NULL,
  started_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
  beat_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
  stop_at     timestamptz
) WITH (fillfactor = 30);
COMMENT ON TABLE role IS 'The processes of the desk. One is alive if its session advisory lock is held and its beat is fresh; no process id is stored.';
COMMENT ON COLUMN role.kind IS 'scheduler, worker or trader.';
COMMENT ON COLUMN role.host IS 'The machine that it runs on.';
COMMENT ON COLUMN role.started_at IS 'When this instance began.';
COMMENT ON COLUMN role.name IS 'scheduler, worker-1, trader-1, ...: the lock is hashtextextended(''role:'' || name, 0).';
COMMENT ON COLUMN role.instance IS 'New at every start; lanes name it as their owner. Its lock is hashtextextended(instance::text, 0).';
COMMENT ON COLUMN role.stop_at IS 'Somebody asked it to stop: it ends at its next beat, as on SIGTERM. Starting it clears this.';
COMMENT ON COLUMN role.beat_at IS 'Written every few seconds over the connection that holds the locks.';

CREATE TYPE severity AS ENUM ('notice', 'warning', 'critical');

CREATE TABLE incident (
  id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at           timestamptz NOT NULL DEFAULT clock_timestamp(),
  severity     severity NOT NULL,
  kind         text NOT NULL,
  message      text NOT NULL,
  account_id   smallint REFERENCES account,
  order_id     bigint REFERENCES "order",
  resolved_at  timestamptz
);
CREATE INDEX incident_open ON incident (at) WHERE resolved_at IS NULL;
COMMENT ON TABLE incident IS 'What a person should look at: late fills, over-fills, orders that stay in doubt. Set resolved_at when it is dealt with.';
COMMENT ON COLUMN incident.at IS 'When it was seen.';
COMMENT ON COLUMN incident.severity IS 'critical: money or orders may be wrong; warning: soon; notice: good to know.';
COMMENT ON COLUMN incident.kind IS 'What sort of thing, in a few fixed words.';
COMMENT ON COLUMN incident.message IS 'What happened, for a person.';
COMMENT ON COLUMN incident.resolved_at IS 'When a person dealt with it; NULL: open.';

CREATE TABLE account_balance (
  account_id  smallint NOT NULL REFERENCES account,
  asset_id    smallint NOT NULL REFERENCES asset,
  total       amount NOT NULL,
  free        amount NOT NULL,
  used        amount NOT NULL,
  ledger      amount NOT NULL,
  settled     boolean NOT NULL,
  read_at     timestamptz NOT NULL,
  PRIMARY KEY (account_id, asset_id)
);
COMMENT ON TABLE account_balance IS 'What the venue last said we own, beside what the ledger said then. A venue that does not answer leaves the last value standing.';
COMMENT ON COLUMN account_balance.total IS 'As the venue said: free and used.';
COMMENT ON COLUMN account_balance.free IS 'As the venue said: not in its open orders.';
COMMENT ON COLUMN account_balance.used IS 'As the venue said: in its open orders.';
COMMENT ON COLUMN account_balance.read_at IS 'When the venue was read.';
COMMENT ON COLUMN account_balance.ledger IS 'What the ledger had at the venue at that moment: strategies, unallocated, external, suspense, in transit.';
COMMENT ON COLUMN account_balance.settled IS 'False: an order was in flight while the venue was read, so a difference says nothing yet.';

CREATE TABLE equity_point (
  strategy_id  int NOT NULL REFERENCES strategy,
  at           timestamptz NOT NULL DEFAULT clock_timestamp(),
  equity       amount NOT NULL,
  unit_value   numeric NOT NULL,
  PRIMARY KEY (strategy_id, at)
);
COMMENT ON TABLE equity_point IS 'How a strategy''s worth went, in its unit: written by a job.';
COMMENT ON COLUMN equity_point.at IS 'When it was sampled.';
COMMENT ON COLUMN equity_point.equity IS 'The strategy''s worth then, in its unit.';
COMMENT ON COLUMN equity_point.unit_value IS 'Equity per unit bought by deposits: 1 at the start, so it shows the strategy and not the money that came and went.';

CREATE TABLE drawdown (
  strategy_id   int PRIMARY KEY REFERENCES strategy,
  peak          numeric NOT NULL,
  max_drawdown  numeric NOT NULL
) WITH (fillfactor = 30);
COMMENT ON TABLE drawdown IS 'The highest unit value so far and the deepest fall from a peak, kept from equity_point.';
COMMENT ON COLUMN drawdown.peak IS 'The highest unit value so far, at least 1.';
COMMENT ON COLUMN drawdown.max_drawdown IS 'A share: 0.25 is a fall of 25 % from a peak.';

CREATE FUNCTION equity_point_insert() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
  INSERT INTO drawdown AS d (strategy_id, peak, max_drawdown) VALUES (NEW.strategy_id, greatest(1, NEW.unit_value), greatest(0, 1 - NEW.unit_value))
    ON CONFLICT (strategy_id) DO UPDATE SET peak = greatest(d.peak, NEW.unit_value),
      max_drawdown = greatest(d.max_drawdown, 1 - NEW.unit_value / greatest(d.peak, NEW.unit_value));
  RETURN NULL;
END $$;
CREATE TRIGGER equity_point_insert AFTER INSERT ON equity_point FOR EACH ROW EXECUTE FUNCTION equity_point_insert();
CREATE TRIGGER follows BEFORE INSERT OR UPDATE OR DELETE ON drawdown FOR EACH STATEMENT EXECUTE FUNCTION only_from_triggers('it follows equity_point');
CREATE TRIGGER kept BEFORE TRUNCATE ON drawdown FOR EACH STATEMENT EXECUTE FUNCTION refuse('it follows equity_point');
CREATE TRIGGER written BEFORE INSERT OR UPDATE OR DELETE ON equity_point FOR EACH STATEMENT
  EXECUTE FUNCTION only_from_processes('a job writes how equity went');
CREATE TRIGGER kept BEFORE TRUNCATE ON equity_point FOR EACH STATEMENT EXECUTE FUNCTION refuse('a job writes how equity went');
CREATE TRIGGER written BEFORE INSERT OR UPDATE OR DELETE ON account_balance FOR EACH STATEMENT
  EXECUTE FUNCTION only_from_processes('it is what the venue said; a job reads it again');
CREATE TRIGGER kept BEFORE TRUNCATE ON account_balance FOR EACH STATEMENT EXECUTE FUNCTION refuse('it is what the venue said; a job reads it again');


----------------------------------------------------------------------------------------------------
-- VIEWS
----------------------------------------------------------------------------------------------------

-- What people read.

CREATE VIEW allowance AS
  SELECT s.name AS strategy, a.code AS asset, trim_scale(b.total - b.held) AS free, trim_scale(b.held) AS held, trim_scale(b.total) AS total,
         CASE s.allowance_unit WHEN '%' THEN round(100 * (b.total - b.held) * p.in_unit / nullif(e.equity, 0), 2)
              ELSE round((b.total - b.held) * asset_price(b.asset_id, (SELECT id FROM asset WHERE code = s.allowance_unit), c.exchange_id), 8) END AS allowance,
         s.allowance_unit AS unit
    FROM strategy s
    JOIN account c ON c.id = s.account_id
    JOIN ledger_account l ON l.strategy_id = s.id
    JOIN balance b ON b.ledger_account_id = l.id
    JOIN asset a ON a.id = b.asset_id
    CROSS JOIN LATERAL (SELECT asset_price(b.asset_id, s.unit_id, c.exchange_id) AS in_unit) p
    CROSS JOIN LATERAL strategy_equity(s.id) e;
COMMENT ON VIEW allowance IS 'What each strategy may still spend: what it was funded with, plus what it made, minus what it lost, minus what its orders hold.';
COMMENT ON COLUMN allowance.free IS 'total - held: what orders may still take.';
COMMENT ON COLUMN allowance.held IS 'Reserved by orders in flight or open.';
COMMENT ON COLUMN allowance.total IS 'What the strategy has of the asset.';
COMMENT ON COLUMN allowance.unit IS 'What the column allowance is told in.';
COMMENT ON COLUMN allowance.allowance IS 'The free part told in the strategy''s allowance_unit: an asset, or % of its equity. NULL: no price is known.';

CREATE VIEW holding AS
  SELECT s.name AS strategy, c.name AS account, a.code AS asset, trim_scale(b.total) AS total, trim_scale(b.held) AS held,
         round(k.cost / nullif(k.quantity, 0), 8) AS average_cost, round(p.price, 8) AS price, round(b.total * p.price, 8) AS value, u.code AS unit
    FROM strategy s
    JOIN account c ON c.id = s.account_id
    JOIN asset u ON u.id = s.unit_id
    JOIN ledger_account l ON l.strategy_id = s.id
    JOIN balance b ON b.ledger_account_id = l.id AND b.total <> 0
    JOIN asset a ON a.id = b.asset_id
    LEFT JOIN market m ON m.exchange_id = c.exchange_id AND m.base_id = b.asset_id AND m.quote_id = s.unit_id
    LEFT JOIN position k ON k.strategy_id = s.id AND k.market_id = m.id
    CROSS JOIN LATERAL (SELECT asset_price(b.asset_id, s.unit_id, c.exchange_id) AS price) p;
COMMENT ON VIEW holding IS 'What each strategy owns, at what average cost, and what it is worth now in the strategy''s unit.';
COMMENT ON COLUMN holding.total IS 'What the strategy has of the asset.';
COMMENT ON COLUMN holding.held IS 'How much of it open orders reserve.';
COMMENT ON COLUMN holding.average_cost IS 'In unit for one asset, fees included.';
COMMENT ON COLUMN holding.price IS 'In unit for one asset: the last candle close, else the last fill.';
COMMENT ON COLUMN holding.value IS 'total at that price.';
COMMENT ON COLUMN holding.unit IS 'The asset that the strategy is told in.';

CREATE VIEW equity AS
  SELECT s.id AS strategy_id, s.name AS strategy, e.equity, u.code AS unit, e.unpriced, f.paid_in, f.units,
         coalesce(e.equity / nullif(f.units, 0), (SELECT unit_value FROM flow WHERE strategy_id = s.id ORDER BY order_id DESC LIMIT 1), 1) AS unit_value
    FROM strategy s
    JOIN asset u ON u.id = s.unit_id
    CROSS JOIN LATERAL strategy_equity(s.id) e
    CROSS JOIN LATERAL (SELECT coalesce(sum(value), 0) AS paid_in, coalesce(sum(units), 0) AS units FROM flow WHERE strategy_id = s.id) f;
COMMENT ON VIEW equity IS 'What each strategy is worth in its unit, by the last candle closes.';
COMMENT ON COLUMN equity.equity IS 'Everything it has, at the last prices.';
COMMENT ON COLUMN equity.unit IS 'The asset that the strategy is told in.';
COMMENT ON COLUMN equity.paid_in IS 'Deposits minus withdrawals, each at the price of its moment.';
COMMENT ON COLUMN equity.units IS 'Units that its deposits bought.';
COMMENT ON COLUMN equity.unpriced IS 'Assets that are left out because nobody knows their price.';
COMMENT ON COLUMN equity.unit_value IS 'Equity per unit bought by deposits: 1 at the start; minus 1 it is the time-weighted return.';

CREATE VIEW performance AS
  SELECT e.strategy, e.unit, round(f.deposits, 8) AS deposits, round(f.withdrawals, 8) AS withdrawals, round(e.equity, 8) AS equity,
         round(e.equity - e.paid_in, 8) AS profit, round(p.realised, 8) AS realised, round(p.unrealised, 8) AS unrealised, round(p.fees, 8) AS fees,
         round(100 * (e.unit_value - 1), 4) AS return_percent,
         round(100 * greatest(d.max_drawdown, 1 - e.unit_value / greatest(d.peak, e.unit_value, 1)), 4) AS max_drawdown_percent,
         p.trades, round(100.0 * p.wins / nullif(p.trades, 0), 2) AS win_percent, e.unpriced
    FROM equity e
    JOIN strategy s ON s.id = e.strategy_id
    JOIN account c ON c.id = s.account_id
    LEFT JOIN drawdown d ON d.strategy_id = s.id
    CROSS JOIN LATERAL (SELECT coalesce(sum(value) FILTER (WHERE value > 0), 0) AS deposits, coalesce(-sum(value) FILTER (WHERE value < 0), 0) AS withdrawals
                          FROM flow WHERE strategy_id = s.id) f
    CROSS JOIN LATERAL (
      SELECT coalesce(sum(k.realised * r.rate), 0) AS realised, coalesce(sum((CASE WHEN k.quantity = 0 THEN 0 ELSE k.quantity * market_price(m.id) END - k.cost) * r.rate), 0) AS unrealised,
             coalesce(sum(k.fees * r.rate), 0) AS fees, coalesce(sum(k.trades), 0)::int AS trades, coalesce(sum(k.wins), 0)::int AS wins
        FROM position k JOIN market m ON m.id = k.market_id
        CROSS JOIN LATERAL (SELECT asset_price(m.quote_id, s.unit_id, c.exchange_id) AS rate) r
       WHERE k.strategy_id = s.id) p;
COMMENT ON VIEW performance IS 'What each strategy made, in its unit. Deposits and withdrawals never touch profit.';
COMMENT ON COLUMN performance.unit IS 'The asset that all amounts here are told in.';
COMMENT ON COLUMN performance.deposits IS 'All that came, at the prices of the moment.';
COMMENT ON COLUMN performance.withdrawals IS 'All that went, at the prices of the moment.';
COMMENT ON COLUMN performance.equity IS 'Everything it has, at the last prices.';
COMMENT ON COLUMN performance.fees IS 'Paid in any asset, valued at the fill; part of realised and unrealised already.';
COMMENT ON COLUMN performance.unpriced IS 'Assets that are left out because nobody knows their price.';
COMMENT ON COLUMN performance.profit IS 'Equity minus what was paid in, net.';
COMMENT ON COLUMN performance.realised IS 'From what was sold, at average cost, after fees.';
COMMENT ON COLUMN performance.unrealised IS 'What is held, at the last close, minus its cost.';
COMMENT ON COLUMN performance.return_percent IS 'Time-weighted: equity per unit minus 1, where each deposit buys units at equity / units.';
COMMENT ON COLUMN performance.max_drawdown_percent IS 'The deepest fall of the unit value from a peak.';
COMMENT ON COLUMN performance.trades IS 'Sell orders that traded.';
COMMENT ON COLUMN performance.win_percent IS 'Share of those that realised a profit.';

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

CREATE VIEW reconciliation AS
  SELECT c.name AS account, a.code AS asset, trim_scale(v.total) AS venue, trim_scale(v.ledger) AS ledger,
         CASE WHEN v.settled THEN trim_scale(v.total - v.ledger) END AS drift,
         trim_scale(coalesce(b.strategies, 0)) AS strategies, trim_scale(coalesce(b.unallocated, 0)) AS unallocated, v.read_at
    FROM account c
    JOIN (SELECT l.account_id, b.asset_id, sum(b.total) FILTER (WHERE l.kind = 'strategy') AS strategies, sum(b.total) FILTER (WHERE l.kind = 'unallocated') AS unallocated
            FROM balance b JOIN ledger_account l ON l.id = b.ledger_account_id GROUP BY 1, 2) b ON b.account_id = c.id
    FULL JOIN account_balance v ON v.account_id = b.account_id AND v.asset_id = b.asset_id
    JOIN asset a ON a.id = coalesce(v.asset_id, b.asset_id)
   WHERE coalesce(v.total, 0) <> 0 OR coalesce(v.ledger, 0) <> 0 OR coalesce(b.strategies, 0) <> 0 OR coalesce(b.unallocated, 0) <> 0;
COMMENT ON VIEW reconciliation IS 'The venue''s balances beside the ledger. venue NULL: never read.';
COMMENT ON COLUMN reconciliation.venue IS 'What the venue said it has of ours.';
COMMENT ON COLUMN reconciliation.ledger IS 'What our books had then.';
COMMENT ON COLUMN reconciliation.read_at IS 'When the venue was read.';
COMMENT ON COLUMN reconciliation.drift IS 'venue - ledger, both at read_at. NULL: an order was in flight then, or the venue was never read.';
COMMENT ON COLUMN reconciliation.strategies IS 'What strategies have of it now.';
COMMENT ON COLUMN reconciliation.unallocated IS 'What nobody was given yet; below zero: more was given out than was ever there.';

CREATE VIEW execution AS
  SELECT f.id, f.traded_at, s.name AS strategy, e.name || ':' || m.symbol AS market, f.side::text AS side, trim_scale(f.quantity) AS quantity,
         trim_scale(f.price) AS price, trim_scale(f.quote) AS quote, trim_scale(f.fee) AS fee, a.code AS fee_asset, trim_scale(f.fee_value) AS fee_value,
         f.liquidity::text AS liquidity, f.source::text AS source, f.order_id, f.trade_id
    FROM fill f
    JOIN "order" o ON o.id = f.order_id
    JOIN strategy s ON s.id = o.strategy_id
    JOIN market m ON m.id = f.market_id
    JOIN exchange e ON e.id = m.exchange_id
    LEFT JOIN asset a ON a.id = f.fee_asset_id;
COMMENT ON VIEW execution IS 'The table fill by names.';
COMMENT ON COLUMN execution.traded_at IS 'When the venue traded it.';
COMMENT ON COLUMN execution.quantity IS 'Base traded.';
COMMENT ON COLUMN execution.price IS 'Quote for one base.';
COMMENT ON COLUMN execution.quote IS 'quantity x price.';
COMMENT ON COLUMN execution.fee IS 'In fee_asset; negative is a rebate.';
COMMENT ON COLUMN execution.fee_asset IS 'What the fee was paid in.';
COMMENT ON COLUMN execution.liquidity IS 'maker or taker.';
COMMENT ON COLUMN execution.order_id IS 'The order that it belongs to.';
COMMENT ON COLUMN execution.trade_id IS 'The venue''s number of the trade.';
COMMENT ON COLUMN execution.strategy IS 'Whose order it was.';
COMMENT ON COLUMN execution.market IS 'exchange:symbol.';
COMMENT ON COLUMN execution.side IS 'buy or sell.';
COMMENT ON COLUMN execution.fee_value IS 'The fee in the market''s quote asset; NULL if nobody knew its price.';
COMMENT ON COLUMN execution.source IS 'How we learned of it.';

CREATE VIEW posting AS
  SELECT l.id, l.at, l.kind::text AS kind, coalesce(fs.name, f.kind::text) AS from_, coalesce(ts.name, t.kind::text) AS to_, trim_scale(l.quantity) AS quantity,
         a.code AS asset, c.name AS account, l.order_id, l.fill_id, l.adjustment_id
    FROM ledger l
    JOIN asset a ON a.id = l.asset_id
    JOIN ledger_account f ON f.id = l.from_id
    JOIN ledger_account t ON t.id = l.to_id
    JOIN account c ON c.id = f.account_id
    LEFT JOIN strategy fs ON fs.id = f.strategy_id
    LEFT JOIN strategy ts ON ts.id = t.strategy_id;
COMMENT ON VIEW posting IS 'The ledger by names: from whom to whom, a strategy or a kind of ledger account.';
COMMENT ON COLUMN posting.at IS 'When it was posted.';
COMMENT ON COLUMN posting.kind IS 'deposit, withdrawal, trade, fee or adjustment.';
COMMENT ON COLUMN posting.quantity IS 'How much moved.';
COMMENT ON COLUMN posting.asset IS 'What moved.';
COMMENT ON COLUMN posting.account IS 'The exchange account in whose books it moved.';
COMMENT ON COLUMN posting.order_id IS 'The order that caused it.';
COMMENT ON COLUMN posting.fill_id IS 'The fill that caused it, if one did.';
COMMENT ON COLUMN posting.adjustment_id IS 'The adjustment that caused it, if one did.';
COMMENT ON COLUMN posting.from_ IS 'Whose it was: a strategy, or a kind of ledger account.';
COMMENT ON COLUMN posting.to_ IS 'Whose it is now.';

CREATE VIEW bucket_gap AS
  SELECT e.name || ':' || m.symbol AS market, t.name AS timeframe, g.previous AS gap_from, g.time_close - t.span AS gap_to,
         (extract(epoch FROM g.time_close - t.span - g.previous) / nullif(extract(epoch FROM t.span), 0))::bigint AS missing
    FROM (SELECT market_id, timeframe_id, time_close, lag(time_close) OVER (PARTITION BY market_id, timeframe_id ORDER BY time_close) AS previous FROM bucket) g
    JOIN timeframe t ON t.id = g.timeframe_id
    JOIN market m ON m.id = g.market_id
    JOIN exchange e ON e.id = m.exchange_id
   WHERE g.time_close - t.span > g.previous;
COMMENT ON VIEW bucket_gap IS 'Candles that are not there: between gap_from and gap_to the venue gave none. Reads all candles: filter by market and timeframe.';
COMMENT ON COLUMN bucket_gap.gap_from IS 'Close of the last candle before.';
COMMENT ON COLUMN bucket_gap.gap_to IS 'Opening of the next candle that is there.';
COMMENT ON COLUMN bucket_gap.missing IS 'How many candles that is.';

CREATE VIEW job_status AS
  SELECT task_name AS task, count(*) FILTER (WHERE status = 'todo') AS waiting, count(*) FILTER (WHERE status = 'doing') AS running,
         count(*) FILTER (WHERE status = 'succeeded') AS succeeded, count(*) FILTER (WHERE status = 'failed') AS failed,
         min(scheduled_at) FILTER (WHERE status = 'todo') AS next_at, max(attempts) AS most_attempts
    FROM procrastinate_jobs GROUP BY task_name;
COMMENT ON VIEW job_status IS 'Jobs by task. Finished ones are pruned after a while.';
COMMENT ON COLUMN job_status.waiting IS 'Not begun.';
COMMENT ON COLUMN job_status.running IS 'Being worked on.';
COMMENT ON COLUMN job_status.succeeded IS 'Done, and not pruned yet.';
COMMENT ON COLUMN job_status.failed IS 'Ended by an error.';
COMMENT ON COLUMN job_status.next_at IS 'When the next waiting one is due.';
COMMENT ON COLUMN job_status.most_attempts IS 'Of any job of this task.';

CREATE VIEW role_status AS
  SELECT r.name, r.kind, r.host,
         EXISTS (SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
                    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                    AND (l.classid::bigint << 32 | l.objid::bigint) = hashtextextended('role:' || r.name, 0)) AS alive,
         date_trunc('seconds', clock_timestamp() - r.beat_at) AS since_beat, r.started_at
    FROM role r;
COMMENT ON VIEW role_status IS 'The processes of the desk, and which of them live.';
COMMENT ON COLUMN role_status.alive IS 'Its advisory lock is held now.';
COMMENT ON COLUMN role_status.since_beat IS 'How long ago it last beat; a live one beats every few seconds.';

-- What is kept against the facts it is kept from. Always empty.
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
   WHERE p.realised <> o.realised;
COMMENT ON VIEW invariant_violation IS 'Everything that is kept, computed again from the facts, where the two differ. Always empty; reads the whole history.';
COMMENT ON COLUMN invariant_violation.rule IS 'What should hold.';
COMMENT ON COLUMN invariant_violation.what IS 'Where it does not.';
COMMENT ON COLUMN invariant_violation.kept IS 'What the kept row says.';
COMMENT ON COLUMN invariant_violation.facts IS 'What the facts say.';


----------------------------------------------------------------------------------------------------
-- ACCESS
----------------------------------------------------------------------------------------------------

-- Two roles to grant to people and programs. They belong to the whole server, so they may be there already.
DO $$
DECLARE
  name text;
BEGIN
  FOREACH name IN ARRAY ARRAY['tallydesk_reader', 'tallydesk_user'] LOOP
    BEGIN
      EXECUTE format('CREATE ROLE %I NOLOGIN', name);
    EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
    END;
  END LOOP;
END $$;

-- A trigger runs without this right; making one needs it. Else a temporary table with our triggers would be a way into the books.
DO $$
DECLARE
  name regprocedure;
BEGIN
  FOR name IN SELECT p.oid FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace AND p.prosecdef LOOP
    EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', name);
  END LOOP;
END $$;

GRANT USAGE ON SCHEMA public TO tallydesk_reader, tallydesk_user;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO tallydesk_reader, tallydesk_user;
GRANT INSERT (strategy_id, type, side, market_id, asset_id, quantity, quote_quantity, limit_price, expires_at, bucket_time) ON "order" TO tallydesk_user;
GRANT UPDATE (cancel_requested_at) ON "order" TO tallydesk_user;
GRANT INSERT, UPDATE, DELETE ON orders TO tallydesk_user;
GRANT UPDATE (halted, halt_reason) ON account TO tallydesk_user;
GRANT UPDATE (enabled, stake, stake_unit, params, order_ttl) ON strategy TO tallydesk_user;
GRANT UPDATE (enabled, collect_since) ON bucket_feed TO tallydesk_user;
GRANT UPDATE (resolved_at) ON incident TO tallydesk_user;


----------------------------------------------------------------------------------------------------
-- RECONCILIATION
----------------------------------------------------------------------------------------------------

-- Reconciliation: other people's trades and orders on our accounts, and what the venue has that the books do not.

ALTER TYPE fill_source ADD VALUE 'reconciliation';
ALTER TYPE adjustment_kind ADD VALUE 'transfer';
COMMENT ON COLUMN fill.source IS 'How we learned of it: the answer to our request, a look-up of an order in doubt, the regular poll, or reconciliation, which finds what the others missed.';
COMMENT ON COLUMN adjustment.kind IS 'opening: what was there when the account was first read (becomes unallocated); transfer: came or went at the venue later (unallocated too); external: other people''s doing; suspense: unexplained.';

ALTER TABLE account
  ADD COLUMN opened_at timestamptz,
  ADD COLUMN drift_tolerated numeric NOT NULL DEFAULT 0.000001
    CONSTRAINT drift_tolerated_is_a_share CHECK (drift_tolerated >= 0 AND drift_tolerated < 1),
  ADD COLUMN drift_dust amount NOT NULL DEFAULT 0.00000001 CONSTRAINT drift_dust_is_not_negative CHECK (drift_dust >= 0),
  ADD COLUMN drift_halts numeric NOT NULL DEFAULT 0.10
    CONSTRAINT drift_halts_is_a_share_above_zero CHECK (drift_halts > 0 AND drift_halts <= 1),
  ADD CONSTRAINT drift_halts_is_above_drift_tolerated CHECK (drift_halts > drift_tolerated);
COMMENT ON COLUMN account.opened_at IS 'When the venue was first read with nothing in flight: other people''s trades before it are in the opening.';
COMMENT ON COLUMN account.drift_tolerated IS 'Share of the larger of venue and ledger that a difference may have without being booked.';
COMMENT ON COLUMN account.drift_dust IS 'Quantity of any asset that a difference may have without being booked.';
COMMENT ON COLUMN account.drift_halts IS 'Share of the larger of venue and ledger from which a difference halts the account, unless money simply came in.';
UPDATE account a SET opened_at = coalesce(
  (SELECT min(created_at) FROM adjustment WHERE account_id = a.id AND kind::text = 'opening'),
  (SELECT min(read_at) FROM account_balance WHERE account_id = a.id));

CREATE FUNCTION drift_verdict(venue numeric, ledger numeric, tolerated numeric, dust numeric, halts numeric) RETURNS text LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE WHEN venue = ledger THEN 'agrees'
              WHEN abs(venue - ledger) <= greatest(dust, tolerated * greatest(abs(venue), abs(ledger))) THEN 'tolerated'
              WHEN abs(venue - ledger) >= halts * greatest(abs(venue), abs(ledger)) THEN 'large'
              ELSE 'drift' END $$;
COMMENT ON FUNCTION drift_verdict IS 'How a difference between venue and ledger is judged by an account''s thresholds: agrees, tolerated, drift or large.';

CREATE TABLE execution_read (
  account_id  smallint NOT NULL REFERENCES account,
  market_id   int NOT NULL REFERENCES market,
  read_until  timestamptz NOT NULL,
  read_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (account_id, market_id)
) WITH (fillfactor = 30);
COMMENT ON TABLE execution_read IS 'How far reconciliation has read the venue''s executions, market by market.';
COMMENT ON COLUMN execution_read.read_until IS 'Every execution before this is booked; the next round reads from a little earlier.';
COMMENT ON COLUMN execution_read.read_at IS 'When the venue was read.';

CREATE TABLE external_fill (
  id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  account_id      smallint NOT NULL REFERENCES account,
  market_id       int NOT NULL REFERENCES market,
  trade_id        text NOT NULL,
  side            order_side NOT NULL,
  venue_order_id  text NOT NULL,
  traded_at       timestamptz NOT NULL,
  quantity        positive_amount NOT NULL,
  price           positive_amount NOT NULL,
  quote           amount NOT NULL,
  fee             amount NOT NULL,
  fee_asset_id    smallint REFERENCES asset,
  liquidity       liquidity,
  booked_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
  CONSTRAINT a_foreign_trade_is_booked_once UNIQUE (account_id, market_id, trade_id, side),
  CONSTRAINT a_fee_names_its_asset CHECK (fee = 0 OR fee_asset_id IS NOT NULL)
);
COMMENT ON TABLE external_fill IS 'An execution on our account that no order of ours explains: somebody trades there too. A fact of the venue; never touches a strategy.';
COMMENT ON COLUMN external_fill.trade_id IS 'The venue''s number of the trade.';
COMMENT ON COLUMN external_fill.side IS 'That of the order which is not ours.';
COMMENT ON COLUMN external_fill.venue_order_id IS 'The venue''s number of that order.';
COMMENT ON COLUMN external_fill.traded_at IS 'The venue''s time of the trade.';
COMMENT ON COLUMN external_fill.quantity IS 'Base traded.';
COMMENT ON COLUMN external_fill.price IS 'In quote for one base.';
COMMENT ON COLUMN external_fill.quote IS 'quantity x price.';
COMMENT ON COLUMN external_fill.fee IS 'In fee_asset; negative is a rebate.';
COMMENT ON COLUMN external_fill.liquidity IS 'maker: it rested in the book; taker: it took from it; NULL: the venue did not say.';
COMMENT ON COLUMN external_fill.booked_at IS 'When we booked it.';

CREATE TABLE external_order (
  account_id       smallint NOT NULL REFERENCES account,
  market_id        int NOT NULL REFERENCES market,
  venue_order_id   text NOT NULL,
  client_order_id  text,
  side             order_side,
  type             text,
  price            positive_amount,
  quantity         positive_amount,
  filled_quantity  amount,
  first_seen_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
  seen_at          timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (account_id, market_id, venue_order_id)
);
COMMENT ON TABLE external_order IS 'Open orders on our accounts that are not ours, as the venue last listed them. Never canceled, never changed; a row goes when its order does.';
COMMENT ON COLUMN external_order.venue_order_id IS 'The venue''s number of the order.';
COMMENT ON COLUMN external_order.client_order_id IS 'The name that whoever placed it gave it.';
COMMENT ON COLUMN external_order.side IS 'buy or sell; NULL: the venue did not say.';
COMMENT ON COLUMN external_order.type IS 'As the venue names it; NULL: it did not say.';
COMMENT ON COLUMN external_order.price IS 'Its limit, in quote for one base.';
COMMENT ON COLUMN external_order.quantity IS 'Base that it asks for.';
COMMENT ON COLUMN external_order.filled_quantity IS 'How much of that has traded.';
COMMENT ON COLUMN external_order.first_seen_at IS 'When we first saw it.';
COMMENT ON COLUMN external_order.seen_at IS 'When the venue last listed it.';

CREATE TABLE account_drift (
  account_id     smallint NOT NULL REFERENCES account,
  asset_id       smallint NOT NULL REFERENCES asset,
  drift          amount NOT NULL CONSTRAINT drift_is_not_zero CHECK (drift <> 0),
  first_seen_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
  seen_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
  halted_at      timestamptz,
  PRIMARY KEY (account_id, asset_id)
);
COMMENT ON TABLE account_drift IS 'Differences between venue and ledger that reconciliation has seen and not booked: seen once, tolerated, or so large that the account was halted. A row goes with its difference.';
COMMENT ON COLUMN account_drift.drift IS 'venue - ledger; another value begins anew.';
COMMENT ON COLUMN account_drift.first_seen_at IS 'When a settled reading first gave this value; it counts once a later one gives it again.';
COMMENT ON COLUMN account_drift.seen_at IS 'When a settled reading last gave it.';
COMMENT ON COLUMN account_drift.halted_at IS 'When it halted the account. Setting account.halted to false accepts it: the next round books it.';

ALTER TABLE ledger ADD COLUMN external_fill_id bigint REFERENCES external_fill;
ALTER TABLE ledger DROP CONSTRAINT it_has_a_cause;
ALTER TABLE ledger ADD CONSTRAINT it_has_a_cause CHECK (num_nonnulls(order_id, adjustment_id, external_fill_id) = 1);
CREATE INDEX ledger_external_fill ON ledger (external_fill_id) WHERE external_fill_id IS NOT NULL;

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON external_fill FOR EACH STATEMENT EXECUTE FUNCTION refuse('a fill is a fact of the venue');
CREATE TRIGGER written BEFORE INSERT ON external_fill FOR EACH STATEMENT EXECUTE FUNCTION only_from_processes('fills come from the venue');
CREATE TRIGGER written BEFORE INSERT OR UPDATE OR DELETE ON external_order FOR EACH STATEMENT
  EXECUTE FUNCTION only_from_processes('it is what the venue lists; a job reads it again');
CREATE TRIGGER written BEFORE INSERT OR UPDATE OR DELETE ON execution_read FOR EACH STATEMENT
  EXECUTE FUNCTION only_from_processes('reconciliation notes how far it has read');
CREATE TRIGGER written BEFORE INSERT OR UPDATE OR DELETE ON account_drift FOR EACH STATEMENT
  EXECUTE FUNCTION only_from_processes('reconciliation notes what it sees');
CREATE TRIGGER kept BEFORE TRUNCATE ON external_order FOR EACH STATEMENT EXECUTE FUNCTION refuse('it is what the venue lists; a job reads it again');
CREATE TRIGGER kept BEFORE TRUNCATE ON execution_read FOR EACH STATEMENT EXECUTE FUNCTION refuse('reconciliation notes how far it has read');
CREATE TRIGGER kept BEFORE TRUNCATE ON account_drift FOR EACH STATEMENT EXECUTE FUNCTION refuse('reconciliation notes what it sees');

CREATE FUNCTION external_fill_insert() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.quote := NEW.quantity * NEW.price;
  RETURN NEW;
END $$;
CREATE TRIGGER external_fill_insert BEFORE INSERT ON external_fill FOR EACH ROW EXECUTE FUNCTION external_fill_insert();

CREATE FUNCTION external_fill_post() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
  INSERT INTO ledger (kind, from_id, to_id, asset_id, quantity, external_fill_id)
    SELECT x.kind::ledger_kind, CASE WHEN x.delta < 0 THEN l.id ELSE w.id END, CASE WHEN x.delta < 0 THEN w.id ELSE l.id END, x.asset_id, abs(x.delta), n.id
      FROM new_rows n JOIN market m ON m.id = n.market_id JOIN ledger_account l ON l.account_id = n.account_id AND l.kind = 'external'
     CROSS JOIN LATERAL (VALUES ('trade', 'venue', m.base_id, CASE n.side WHEN 'buy' THEN n.quantity ELSE -n.quantity END),
                                ('trade', 'venue', m.quote_id, CASE n.side WHEN 'buy' THEN -n.quote ELSE n.quote END),
                                ('fee', 'fees', n.fee_asset_id, -n.fee)) x (kind, other, asset_id, delta)
      JOIN ledger_account w ON w.account_id = n.account_id AND w.kind = x.other::ledger_account_kind
     WHERE round(x.delta, 18) <> 0 ORDER BY n.id, x.asset_id;
  RETURN NULL;
END $$;
COMMENT ON FUNCTION external_fill_post IS 'Trigger: other people''s trades post to the ledger account external, so that ledger = venue, and to nothing else.';
CREATE TRIGGER external_fill_post AFTER INSERT ON external_fill REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION external_fill_post();
REVOKE EXECUTE ON FUNCTION external_fill_post() FROM PUBLIC;

CREATE OR REPLACE FUNCTION adjustment_post() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
  INSERT INTO ledger (kind, from_id, to_id, asset_id, quantity, adjustment_id)
    SELECT 'adjustment', CASE WHEN n.quantity > 0 THEN f.id ELSE t.id END, CASE WHEN n.quantity > 0 THEN t.id ELSE f.id END, n.asset_id, abs(n.quantity), n.id
      FROM new_rows n JOIN ledger_account f ON f.account_id = n.account_id AND f.kind = 'funding'
      JOIN ledger_account t ON t.account_id = n.account_id
       AND t.kind = (CASE WHEN n.kind::text IN ('opening', 'transfer') THEN 'unallocated' ELSE n.kind::text END)::ledger_account_kind
     ORDER BY n.id;
  RETURN NULL;
END $$;

DROP VIEW reconciliation;
CREATE VIEW reconciliation AS
  SELECT c.name AS account, a.code AS asset,
         CASE WHEN v.total IS NULL THEN 'never read'
              WHEN NOT v.settled THEN 'unsettled: orders are in flight'
              WHEN j.verdict IN ('agrees', 'tolerated') THEN j.verdict
              WHEN d.halted_at IS NOT NULL AND c.halted THEN 'halted: to accept it: UPDATE account SET halted = false'
              ELSE j.verdict || ': not confirmed yet' END AS verdict,
         trim_scale(v.total) AS venue, trim_scale(v.ledger) AS ledger,
         CASE WHEN v.settled THEN trim_scale(v.total - v.ledger) END AS drift,
         trim_scale(coalesce(b.strategies, 0)) AS strategies, trim_scale(coalesce(b.unallocated, 0)) AS unallocated,
         trim_scale(coalesce(b.external, 0)) AS external, trim_scale(coalesce(b.suspense, 0)) AS suspense, v.read_at
    FROM (SELECT l.account_id, b.asset_id, sum(b.total) FILTER (WHERE l.kind = 'strategy') AS strategies, sum(b.total) FILTER (WHERE l.kind = 'unallocated') AS unallocated,
                 sum(b.total) FILTER (WHERE l.kind = 'external') AS external, sum(b.total) FILTER (WHERE l.kind = 'suspense') AS suspense
            FROM balance b JOIN ledger_account l ON l.id = b.ledger_account_id GROUP BY 1, 2) b
    FULL JOIN account_balance v ON v.account_id = b.account_id AND v.asset_id = b.asset_id
    JOIN account c ON c.id = coalesce(v.account_id, b.account_id)
    JOIN asset a ON a.id = coalesce(v.asset_id, b.asset_id)
    LEFT JOIN account_drift d ON d.account_id = c.id AND d.asset_id = a.id
    CROSS JOIN LATERAL (SELECT drift_verdict(v.total, v.ledger, c.drift_tolerated, c.drift_dust, c.drift_halts) AS verdict) j
   WHERE coalesce(v.total, 0) <> 0 OR coalesce(v.ledger, 0) <> 0 OR coalesce(b.strategies, 0) <> 0 OR coalesce(b.unallocated, 0) <> 0
      OR coalesce(b.external, 0) <> 0 OR coalesce(b.suspense, 0) <> 0;
COMMENT ON VIEW reconciliation IS 'The venue''s balances beside the ledger. venue NULL: never read.';
COMMENT ON COLUMN reconciliation.verdict IS 'agrees, tolerated (below the account''s thresholds), drift or large (seen, not booked yet), halted, unsettled, never read.';
COMMENT ON COLUMN reconciliation.venue IS 'What the venue said it has of ours.';
COMMENT ON COLUMN reconciliation.ledger IS 'What our books had then.';
COMMENT ON COLUMN reconciliation.read_at IS 'When the venue was read.';
COMMENT ON COLUMN reconciliation.drift IS 'venue - ledger, both at read_at. NULL: an order was in flight then, or the venue was never read.';
COMMENT ON COLUMN reconciliation.strategies IS 'What strategies have of it now.';
COMMENT ON COLUMN reconciliation.unallocated IS 'What nobody was given yet; below zero: more was given out than was ever there.';
COMMENT ON COLUMN reconciliation.external IS 'What other people''s trades on the account brought (+) or took (-).';
COMMENT ON COLUMN reconciliation.suspense IS 'What came (+) or is missing (-) and nothing explains.';

CREATE VIEW external AS
  SELECT c.name AS account, 'open order' AS what, e.name || ':' || m.symbol AS market, x.side::text AS side, trim_scale(x.quantity) AS quantity,
         trim_scale(x.price) AS price, x.first_seen_at AS at, x.venue_order_id, x.seen_at
    FROM external_order x JOIN account c ON c.id = x.account_id JOIN market m ON m.id = x.market_id JOIN exchange e ON e.id = m.exchange_id
  UNION ALL
  SELECT c.name, 'fill', e.name || ':' || m.symbol, x.side::text, trim_scale(x.quantity), trim_scale(x.price), x.traded_at, x.venue_order_id, x.booked_at
    FROM external_fill x JOIN account c ON c.id = x.account_id JOIN market m ON m.id = x.market_id JOIN exchange e ON e.id = m.exchange_id;
COMMENT ON VIEW external IS 'What other people do on our accounts: their open orders, and their fills.';
COMMENT ON COLUMN external.what IS 'open order or fill.';
COMMENT ON COLUMN external.side IS 'buy or sell.';
COMMENT ON COLUMN external.quantity IS 'Base asked for, or traded.';
COMMENT ON COLUMN external.price IS 'In quote for one base.';
COMMENT ON COLUMN external.at IS 'An order: when we first saw it; a fill: when it traded.';
COMMENT ON COLUMN external.venue_order_id IS 'The venue''s number of the order.';
COMMENT ON COLUMN external.seen_at IS 'An order: when the venue last listed it; a fill: when we booked it.';

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
    FROM external_fill x JOIN fill f ON (f.account_id, f.market_id, f.trade_id, f.side) = (x.account_id, x.market_id, x.trade_id, x.side);

GRANT SELECT ON execution_read, external_fill, external_order, account_drift, reconciliation, external TO tallydesk_reader, tallydesk_user;

-- Once an account was read, what strategies are given must be there: else one would spend another's money.
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
REVOKE EXECUTE ON FUNCTION order_unallocated() FROM PUBLIC;
CREATE TRIGGER order_unallocated AFTER INSERT ON "order" REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION order_unallocated();


----------------------------------------------------------------------------------------------------
-- ORDER_LIFE
----------------------------------------------------------------------------------------------------

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


----------------------------------------------------------------------------------------------------
-- FAST
----------------------------------------------------------------------------------------------------

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


----------------------------------------------------------------------------------------------------
-- RISK
----------------------------------------------------------------------------------------------------

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


----------------------------------------------------------------------------------------------------
-- DOUBT
----------------------------------------------------------------------------------------------------

-- Doubt as rows (attempts, look-ups, alerts), orders that replace others, and exits that go on with what is left.
-- `waiting` cannot be named in the transaction that adds it: `status < 'queued'` says it where a statement here is run at once.

CREATE TYPE look_up_answer AS ENUM ('found', 'absent', 'failed');

CREATE TABLE look_up (
  id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  order_id        bigint NOT NULL REFERENCES "order",
  attempt         int NOT NULL,
  at              timestamptz NOT NULL DEFAULT clock_timestamp(),
  trader          uuid,
  answer          look_up_answer NOT NULL,
  after_deadline  boolean NOT NULL,
  detail          text
);
CREATE INDEX look_up_order ON look_up (order_id, attempt, id);
COMMENT ON TABLE look_up IS 'Every time that an order in doubt was looked up at the venue, and what the venue said. The evidence that settles it.';
COMMENT ON COLUMN look_up.attempt IS 'Which attempt of the order was in doubt.';
COMMENT ON COLUMN look_up.at IS 'When the answer was written down.';
COMMENT ON COLUMN look_up.trader IS 'The instance (role.instance) of the trader that asked. NULL: nobody did, the answer to the request itself said that the venue has it ("duplicate id").';
COMMENT ON COLUMN look_up.answer IS 'found: the venue has it, and no absence counts any more; absent: it says that it has not; failed: no answer, which proves nothing.';
COMMENT ON COLUMN look_up.after_deadline IS 'Whether the request could not arrive any more by then, by the venue''s own clock: only so "absent" is evidence.';
COMMENT ON COLUMN look_up.detail IS 'The venue''s words, or what followed from them.';
CREATE TRIGGER written BEFORE INSERT ON look_up FOR EACH STATEMENT EXECUTE FUNCTION only_from_processes('a trader writes what the venue said');
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON look_up FOR EACH STATEMENT EXECUTE FUNCTION refuse('it is evidence');

CREATE TABLE attempt_in_doubt (
  order_id          bigint NOT NULL REFERENCES "order",
  attempt           int NOT NULL,
  at                timestamptz NOT NULL DEFAULT clock_timestamp(),
  submitted_at      timestamptz NOT NULL,
  receive_deadline  timestamptz NOT NULL,
  never_sent        boolean NOT NULL,
  answer            text,
  PRIMARY KEY (order_id, attempt)
);
COMMENT ON TABLE attempt_in_doubt IS 'One row for each attempt whose answer proved nothing, or that was never sent. An order that is answered at once has none.';
COMMENT ON COLUMN attempt_in_doubt.attempt IS 'Which attempt: 1 is the first.';
COMMENT ON COLUMN attempt_in_doubt.at IS 'When that was written down.';
COMMENT ON COLUMN attempt_in_doubt.submitted_at IS 'The time stamp that its request was signed with.';
COMMENT ON COLUMN attempt_in_doubt.receive_deadline IS 'After this the venue refused the request.';
COMMENT ON COLUMN attempt_in_doubt.never_sent IS 'True: no byte of it left this machine, so nothing need be looked up.';
COMMENT ON COLUMN attempt_in_doubt.answer IS 'What came back in place of a proof: an error, "duplicate id" (which proves that it is there), or that the trader was gone.';
CREATE TRIGGER follows BEFORE INSERT ON attempt_in_doubt FOR EACH STATEMENT EXECUTE FUNCTION only_from_triggers('it follows the orders');
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON attempt_in_doubt FOR EACH STATEMENT EXECUTE FUNCTION refuse('it is append-only');

-- Only an order without an answer comes here: the condition of the trigger keeps it off the path of the others.
CREATE FUNCTION order_doubt() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
  IF NEW.attempt > OLD.attempt THEN
    INSERT INTO attempt_in_doubt (order_id, attempt, submitted_at, receive_deadline, never_sent, answer)
      VALUES (OLD.id, OLD.attempt, OLD.submitted_at, OLD.receive_deadline, true, 'it had waited for too long when its turn came: its request was stamped anew')
      ON CONFLICT DO NOTHING;
  ELSE  -- a trader that has sent it leaves it in doubt under its own fence; one that finds it so has a new one
    INSERT INTO attempt_in_doubt (order_id, attempt, submitted_at, receive_deadline, never_sent, answer)
      VALUES (NEW.id, NEW.attempt, NEW.submitted_at, NEW.receive_deadline, NEW.absences >= 2,
              CASE WHEN NEW.fence = OLD.fence THEN NEW.reason ELSE 'the trader that sent it is gone' END)
      ON CONFLICT DO NOTHING;
  END IF;
  RETURN NULL;
END $$;
COMMENT ON FUNCTION order_doubt IS 'Trigger: an attempt that ended without proof becomes a row.';
CREATE TRIGGER order_doubt AFTER UPDATE ON "order" FOR EACH ROW
  WHEN (OLD.attempt > 0 AND (NEW.attempt > OLD.attempt OR (NEW.status = 'submitted' AND NEW.next_look_at IS DISTINCT FROM OLD.next_look_at)))
  EXECUTE FUNCTION order_doubt();

CREATE FUNCTION order_evidence(p_order bigint) RETURNS text LANGUAGE sql STABLE SET search_path = public, pg_temp AS $$
  SELECT concat_ws('; ', format('attempt %s', o.attempt) || CASE WHEN d.never_sent THEN ' was never sent' ELSE '' END || coalesce(': ' || d.answer, ''),
           CASE WHEN l.looks = 0 THEN 'not looked up yet'
                ELSE format('looked up %s times: %s failed, %s absent before the receive deadline, %s after it (2 are proof)', l.looks, l.failed, l.early, l.late) END,
           (SELECT format('last answer at %s UTC: %s', to_char(x.at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS'), x.answer) || coalesce(', ' || x.detail, '')
              FROM look_up x WHERE x.order_id = o.id AND x.attempt = o.attempt ORDER BY x.id DESC LIMIT 1))
    FROM "order" o
    LEFT JOIN attempt_in_doubt d ON d.order_id = o.id AND d.attempt = o.attempt
    CROSS JOIN LATERAL (SELECT count(*) AS looks, count(*) FILTER (WHERE answer = 'failed') AS failed, count(*) FILTER (WHERE answer = 'absent' AND NOT after_deadline) AS early,
                               count(*) FILTER (WHERE answer = 'absent' AND after_deadline) AS late FROM look_up WHERE order_id = o.id AND attempt = o.attempt) l
   WHERE o.id = p_order $$;
COMMENT ON FUNCTION order_evidence IS 'What is known of an order''s last attempt, in words: the answer to its request, and what its look-ups brought.';

CREATE VIEW order_attempt AS
  SELECT a.order_id, a.attempt, a.submitted_at, a.receive_deadline,
         (SELECT e.written_by FROM order_event e WHERE e.order_id = a.order_id AND e.attempt = a.attempt ORDER BY e.id LIMIT 1) AS sent_by,
         CASE WHEN NOT a.last THEN CASE WHEN d.never_sent THEN 'never sent' ELSE 'absent' END
              WHEN o.venue_order_id IS NOT NULL OR o.filled_quantity > 0 OR o.status IN ('accepted', 'partially_filled', 'pending_cancel', 'filled', 'expired') THEN 'accepted'
              WHEN o.status = 'rejected' THEN 'rejected'
              WHEN o.status = 'submitted' AND NOT coalesce(d.never_sent, false)
                THEN CASE WHEN o.in_doubt_since IS NOT NULL OR o.receive_deadline < clock_timestamp() THEN 'in doubt' ELSE 'in flight' END
              WHEN coalesce(d.never_sent, true) THEN 'never sent' ELSE 'absent' END AS outcome,
         l.look_ups, l.absences, l.last_look_at, d.answer
    FROM (SELECT d.order_id, d.attempt, d.submitted_at, d.receive_deadline, false AS last FROM attempt_in_doubt d JOIN "order" o ON o.id = d.order_id AND o.attempt > d.attempt
          UNION ALL SELECT id, attempt, submitted_at, receive_deadline, true FROM "order" WHERE attempt > 0) a
    JOIN "order" o ON o.id = a.order_id
    LEFT JOIN attempt_in_doubt d ON d.order_id = a.order_id AND d.attempt = a.attempt
    CROSS JOIN LATERAL (SELECT count(*) AS look_ups, count(*) FILTER (WHERE answer = 'absent' AND after_deadline) AS absences, max(at) AS last_look_at
                          FROM look_up WHERE order_id = a.order_id AND attempt = a.attempt) l;
COMMENT ON VIEW order_attempt IS 'One row for each time that an order was made ready to send, and what became of that.';
COMMENT ON COLUMN order_attempt.order_id IS 'Whose attempt it is.';
COMMENT ON COLUMN order_attempt.attempt IS '1 is the first. Another begins only when the one before is proved absent, or was never sent.';
COMMENT ON COLUMN order_attempt.submitted_at IS 'The time stamp that its request is signed with.';
COMMENT ON COLUMN order_attempt.receive_deadline IS 'After this the venue refuses the request, so "not found" becomes proof.';
COMMENT ON COLUMN order_attempt.sent_by IS 'The database user and the trader that made it ready.';
COMMENT ON COLUMN order_attempt.outcome IS 'accepted, rejected (by the venue), absent (looked up, and not there), never sent, in doubt, or in flight: nothing has come back yet.';
COMMENT ON COLUMN order_attempt.look_ups IS 'How often it was looked up at the venue; see look_up.';
COMMENT ON COLUMN order_attempt.absences IS 'How many of those said "not found" after the receive deadline; 2 are proof.';
COMMENT ON COLUMN order_attempt.last_look_at IS 'When it was looked up last.';
COMMENT ON COLUMN order_attempt.answer IS 'What came back in place of a proof; NULL: a proof, or nothing yet.';

CREATE OR REPLACE VIEW order_in_doubt AS
  SELECT o.id, s.name AS strategy, c.name AS account, e.name || ':' || m.symbol AS market, o.side::text AS side, trim_scale(h.quantity) AS held, a.code AS held_asset,
         date_trunc('milliseconds', clock_timestamp() - o.submitted_at) AS age, o.receive_deadline, o.attempt, o.absences, o.next_look_at, o.reason, o.client_order_id,
         o.in_doubt_since, order_evidence(o.id) AS evidence
    FROM "order" o
    JOIN strategy s ON s.id = o.strategy_id
    JOIN account c ON c.id = o.account_id
    JOIN market m ON m.id = o.market_id
    JOIN exchange e ON e.id = m.exchange_id
    LEFT JOIN hold h ON h.order_id = o.id
    LEFT JOIN asset a ON a.id = h.asset_id
   WHERE o.status = 'submitted' AND (o.in_doubt_since IS NOT NULL OR o.receive_deadline < clock_timestamp());
COMMENT ON COLUMN order_in_doubt.in_doubt_since IS 'Since when nobody can say whether it arrived; NULL: no trader has looked at it yet.';
COMMENT ON COLUMN order_in_doubt.evidence IS 'What is known so far, in words; each look-up is a row of look_up.';

-- A look-up that dies with its trader is made again at once: whoever can take the lock of an instance knows that its process is gone.
ALTER TABLE "order" ADD COLUMN looked_up_by uuid CONSTRAINT only_an_order_that_was_sent_is_looked_up CHECK (looked_up_by IS NULL OR attempt > 0);
COMMENT ON COLUMN "order".looked_up_by IS 'The instance (role.instance) of the trader that took it last to look it up.';

-- Whoever wants to be told of what needs a person: LISTEN incident.
ALTER TABLE account ADD COLUMN doubt_alert interval NOT NULL DEFAULT '5 min' CONSTRAINT doubt_alert_is_above_zero CHECK (doubt_alert > '0 s');
COMMENT ON COLUMN account.doubt_alert IS 'How long an order may be in doubt before that is an incident.';
CREATE UNIQUE INDEX incident_in_doubt ON incident (order_id) WHERE kind = 'in doubt';
COMMENT ON COLUMN incident.resolved_at IS 'When a person dealt with it, or when the doubt ended that it tells of; NULL: open.';

CREATE FUNCTION incident_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_notify('incident', '');  -- constant: one notification per transaction, however many rows
  RETURN NULL;
END $$;
COMMENT ON FUNCTION incident_notify IS 'Trigger: whoever listens on the channel incident is told that there is a new one.';
CREATE TRIGGER incident_notify AFTER INSERT ON incident FOR EACH STATEMENT EXECUTE FUNCTION incident_notify();

CREATE FUNCTION order_doubt_ends() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
  UPDATE incident SET resolved_at = clock_timestamp() WHERE order_id = NEW.id AND kind = 'in doubt' AND resolved_at IS NULL;
  RETURN NULL;
END $$;
COMMENT ON FUNCTION order_doubt_ends IS 'Trigger: the incident of an order in doubt ends with the doubt.';
CREATE TRIGGER order_doubt_ends AFTER UPDATE ON "order" FOR EACH ROW
  WHEN (OLD.status = 'submitted' AND NEW.status <> 'submitted' AND (OLD.in_doubt_since IS NOT NULL OR OLD.receive_deadline < clock_timestamp()))
  EXECUTE FUNCTION order_doubt_ends();

-- An order that takes another's place: the other is canceled first, then this one is queued with what is left.
ALTER TABLE "order"
  ADD COLUMN replaces_id bigint REFERENCES "order",
  ADD COLUMN due_quantity positive_amount,
  ADD COLUMN replaced_quantity amount,
  ADD CONSTRAINT a_deposit_or_withdrawal_replaces_nothing CHECK (type IN ('market', 'limit') OR replaces_id IS NULL);
CREATE INDEX order_replaces ON "order" (replaces_id) WHERE replaces_id IS NOT NULL;
COMMENT ON COLUMN "order".replaces_id IS 'It takes that order''s place: that one is asked to cancel, this one waits until it has ended and is queued with what is left of its own quantity.';
COMMENT ON COLUMN "order".due_quantity IS 'What it was queued with, if that is less than quantity: others of its group or line have filled the rest, or its entry brought less. NULL: quantity.';
COMMENT ON COLUMN "order".replaced_quantity IS 'What the orders had filled that it replaces, directly or one through the other, when it was queued.';

CREATE FUNCTION order_replaces() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
  old "order";
  other bigint;
BEGIN
  IF num_nonnulls(NEW.due_quantity, NEW.replaced_quantity) > 0 THEN
    RAISE EXCEPTION 'due_quantity and replaced_quantity follow from other orders: they cannot be given' USING ERRCODE = 'restrict_violation';
  END IF;
  -- Locked with its group, in one order: what they do next sees this order, or this order sees it.
  PERFORM FROM "order" WHERE id = NEW.replaces_id OR parent_id = (SELECT parent_id FROM "order" WHERE id = NEW.replaces_id) ORDER BY id FOR NO KEY UPDATE;
  SELECT * INTO old FROM "order" WHERE id = NEW.replaces_id AND id <> NEW.id;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'replaces_id is %: there is no such order yet; it must be queued before', NEW.replaces_id USING ERRCODE = 'foreign_key_violation';
  ELSIF (old.strategy_id, old.market_id, old.side) IS DISTINCT FROM (NEW.strategy_id, NEW.market_id, NEW.side) THEN
    RAISE EXCEPTION 'replaces_id is %: that order is another strategy''s, or of another market or side; an order takes only the place of its like', old.id
      USING ERRCODE = 'check_violation';
  ELSIF order_is_final(old.status) THEN
    RAISE EXCEPTION 'replaces_id is %: that order is % and cannot be replaced any more', old.id, old.status USING ERRCODE = 'check_violation';
  ELSIF NEW.quote_quantity IS NOT NULL OR (NEW.quantity IS NULL AND NEW.side = 'buy') THEN
    RAISE EXCEPTION 'replaces_id is %: give quantity, the base that is wanted in all; what order % fills is taken off it', old.id, old.id USING ERRCODE = 'check_violation';
  ELSIF NEW.parent_id <> old.parent_id OR (NEW.parent_id IS NOT NULL AND old.parent_id IS NULL) THEN
    RAISE EXCEPTION 'replaces_id is %: leave parent_id empty; it stays in the group of the order that it replaces', old.id USING ERRCODE = 'check_violation';
  END IF;
  SELECT r.id INTO other FROM "order" r WHERE r.replaces_id = old.id AND NOT order_is_final(r.status) LIMIT 1;
  IF other IS NOT NULL THEN
    RAISE EXCEPTION 'replaces_id is %: order % replaces that already; replace order %', old.id, other, other USING ERRCODE = 'check_violation';
  END IF;
  -- It joins the line of the order that it replaces: whoever waits for that line waits for it, too.
  IF EXISTS (WITH RECURSIVE before AS (SELECT NEW.after_id AS id UNION SELECT o.after_id FROM before JOIN "order" o USING (id) WHERE o.after_id IS NOT NULL)
             SELECT FROM before b CROSS JOIN LATERAL order_line(b.id) l WHERE l.id = old.id) THEN
    RAISE EXCEPTION 'after_id is %: that waits for order %, whose place this one takes: each would wait for the other', NEW.after_id, old.id USING ERRCODE = 'check_violation';
  END IF;
  NEW.status := 'waiting';  -- order_follow asks for the cancel, and queues it at once if that is done
  NEW.parent_id := old.parent_id;
  NEW.after_id := coalesce(NEW.after_id, old.after_id);
  IF NEW.expires_at = NEW.created_at + (SELECT order_ttl FROM strategy WHERE id = NEW.strategy_id) THEN
    NEW.expires_at := NULL;  -- nobody gave it: as with all that wait, order_ttl counts from the queue
  END IF;
  RETURN NEW;
END $$;
COMMENT ON FUNCTION order_replaces IS 'Trigger: which order may take whose place. It runs after order_insert, by its name.';
CREATE TRIGGER order_replaces BEFORE INSERT ON "order" FOR EACH ROW
  WHEN (NEW.replaces_id IS NOT NULL OR NEW.due_quantity IS NOT NULL OR NEW.replaced_quantity IS NOT NULL) EXECUTE FUNCTION order_replaces();

CREATE FUNCTION order_replaces_fixed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.replaces_id IS DISTINCT FROM OLD.replaces_id
     OR ((NEW.due_quantity, NEW.replaced_quantity) IS DISTINCT FROM (OLD.due_quantity, OLD.replaced_quantity) AND (OLD.status <> 'waiting' OR pg_trigger_depth() < 2)) THEN
    RAISE EXCEPTION 'order %: what it replaces is fixed, and what is due follows from other orders', OLD.id USING ERRCODE = 'restrict_violation';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER order_replaces_fixed BEFORE UPDATE OF replaces_id, due_quantity, replaced_quantity ON "order" FOR EACH ROW EXECUTE FUNCTION order_replaces_fixed();

CREATE FUNCTION order_replaced(p_order bigint) RETURNS TABLE (id bigint, status order_status, filled_quantity numeric, replaced_quantity numeric)
  LANGUAGE sql STABLE SET search_path = public, pg_temp AS $$
  WITH RECURSIVE line AS (
    SELECT r.* FROM "order" o JOIN "order" r ON r.id = o.replaces_id WHERE o.id = p_order
    UNION ALL SELECT r.* FROM line l JOIN "order" r ON r.id = l.replaces_id WHERE l.replaced_quantity IS NULL)
  SELECT id, status, filled_quantity, replaced_quantity FROM line $$;
COMMENT ON FUNCTION order_replaced IS 'The orders that an order replaces, directly or through others that were never queued; what came before those is in replaced_quantity.';

CREATE FUNCTION order_replaced_quantity(p_order bigint) RETURNS numeric LANGUAGE sql STABLE SET search_path = public, pg_temp AS $$
  WITH RECURSIVE line AS (
    SELECT replaces_id FROM "order" WHERE id = p_order
    UNION ALL SELECT o.replaces_id FROM line l JOIN "order" o ON o.id = l.replaces_id WHERE o.replaces_id IS NOT NULL)
  SELECT coalesce(sum(o.filled_quantity), 0) FROM line l JOIN "order" o ON o.id = l.replaces_id $$;
COMMENT ON FUNCTION order_replaced_quantity IS 'What all orders of the line before an order have filled by now, late fills included.';

CREATE FUNCTION order_line(p_order bigint) RETURNS TABLE (id bigint, status order_status, filled_quantity numeric) LANGUAGE sql STABLE SET search_path = public, pg_temp AS $$
  WITH RECURSIVE line AS (
    SELECT o.id, o.status, o.filled_quantity FROM "order" o WHERE o.id = p_order
    UNION ALL SELECT r.id, r.status, r.filled_quantity FROM line l JOIN "order" r ON r.replaces_id = l.id)
  SELECT id, status, filled_quantity FROM line $$;
COMMENT ON FUNCTION order_line IS 'An order and all that took its place, one after the other.';

CREATE FUNCTION order_line_ended(p_order bigint) RETURNS boolean LANGUAGE sql STABLE SET search_path = public, pg_temp AS $$
  SELECT NOT EXISTS (SELECT FROM order_line(p_order) l WHERE NOT order_is_final(l.status)) $$;
COMMENT ON FUNCTION order_line_ended IS 'Whether an order has ended, and all that took its place: only then orders after it are due.';

CREATE FUNCTION order_may_go_on(p_waiting bigint, p_traded bigint) RETURNS boolean LANGUAGE sql STABLE SET search_path = public, pg_temp AS $$
  SELECT (w.market_id, w.side) = (t.market_id, t.side) AND (w.quantity IS NOT NULL OR (w.side = 'sell' AND w.quote_quantity IS NULL))
    FROM "order" w, "order" t WHERE w.id = p_waiting AND t.id = p_traded $$;
COMMENT ON FUNCTION order_may_go_on IS 'Whether an order of a group that waits goes on with what is left when another has traded a part: only if it does the same, and base can be taken off it.';

CREATE FUNCTION order_due(w "order", OUT due numeric, OUT taken numeric, OUT replaced numeric, OUT why text) LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
  brought numeric;
BEGIN
  replaced := order_replaced_quantity(w.id);
  taken := replaced;
  IF w.parent_id IS NOT NULL THEN  -- what it replaces is of its group
    SELECT coalesce(sum(g.filled_quantity), 0) INTO taken FROM "order" g
     WHERE g.parent_id = w.parent_id AND g.id <> w.id AND (g.market_id, g.side) = (w.market_id, w.side);
  END IF;
  due := w.quantity;
  IF w.side = 'sell' AND w.after_id IS NOT NULL THEN
    -- What the entry brought, less its fees in base, less what a sale will pay in base, less what other ways out have or may still get of it.
    WITH RECURSIVE entry AS (SELECT e.id, e.filled_quantity FROM order_line(w.after_id) l JOIN "order" e USING (id) WHERE e.side = 'buy' AND e.market_id = w.market_id),
    older AS (SELECT w.replaces_id AS id UNION ALL SELECT o.replaces_id FROM older JOIN "order" o USING (id) WHERE o.replaces_id IS NOT NULL)
    SELECT trunc((x.filled - x.fees) / CASE WHEN m.fee_side IN ('give', 'base') THEN 1 + greatest(m.maker_fee, m.taker_fee) ELSE 1 END, 18) - x.others INTO brought
      FROM market m
     CROSS JOIN LATERAL (
       SELECT (SELECT sum(filled_quantity) FROM entry) AS filled,
              (SELECT coalesce(sum(f.fee), 0) FROM fill f JOIN entry e ON e.id = f.order_id WHERE f.fee_asset_id = m.base_id) AS fees,
              (SELECT coalesce(sum(CASE WHEN order_is_final(x.status) THEN x.filled_quantity ELSE greatest(x.filled_quantity, coalesce(x.due_quantity, x.quantity, x.sent_quantity)) END), 0)
                 FROM "order" x JOIN entry e ON e.id = x.after_id
                WHERE x.id <> w.id AND x.status <> 'waiting' AND (x.market_id, x.side) = (w.market_id, w.side)
                  AND (w.parent_id IS NULL OR x.parent_id IS DISTINCT FROM w.parent_id) AND x.id <> ALL (ARRAY(SELECT id FROM older WHERE id IS NOT NULL))) AS others) x
     WHERE m.id = w.market_id;
    IF brought < due THEN
      due := greatest(brought, 0);
      why := format('order %s brought %s', w.after_id, trim_scale(due));
    END IF;
  END IF;
  IF taken > 0 THEN
    due := due - taken;
    why := concat_ws(', ', why, format('%s is filled already', trim_scale(taken)));
  END IF;
END $$;
COMMENT ON FUNCTION order_due IS 'What is left for an order that waits: its quantity, at most what its entry brought, less what its group or those that it replaces have filled. NULL: it takes what is there.';

CREATE OR REPLACE FUNCTION order_release(p_orders bigint[]) RETURNS void LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
  number bigint;
  w "order";
  entry record;
  rest record;
  what order_status;
  why text;
  rival bigint;
BEGIN
  FOR number IN SELECT id FROM "order" WHERE id = ANY(p_orders) AND status = 'waiting' ORDER BY id FOR NO KEY UPDATE LOOP
    UPDATE "order" o SET cancel_requested_at = clock_timestamp(), status = CASE WHEN o.status IN ('waiting', 'queued') THEN 'canceled' ELSE o.status END,
           reason = CASE WHEN o.status IN ('waiting', 'queued') THEN format('order %s replaces it', number) ELSE o.reason END
      FROM "order" n WHERE n.id = number AND o.id = n.replaces_id AND NOT order_is_final(o.status) AND o.cancel_requested_at IS NULL;
    SELECT * INTO w FROM "order" WHERE id = number AND status = 'waiting';
    CONTINUE WHEN NOT FOUND;  -- the end of the one that it replaces has released it
    what := 'queued';
    why := NULL;
    rest := NULL;
    IF w.after_id IS NOT NULL THEN
      SELECT bool_and(order_is_final(l.status)) AS ended, sum(l.filled_quantity) AS filled, (array_agg(l.id ORDER BY l.id DESC))[1] AS id,
             (array_agg(l.status ORDER BY l.id DESC))[1] AS status INTO entry FROM order_line(w.after_id) l;
      what := CASE WHEN NOT entry.ended THEN 'waiting' WHEN entry.filled = 0 THEN 'canceled' ELSE 'queued' END;
      why := format('order %s, for which it waited, is %s', entry.id, entry.status);
    END IF;
    -- One that is filled ends its group, unless another takes its place. One that is filled in part leaves the rest to those that wait.
    SELECT g.id INTO rival FROM "order" g
     WHERE g.parent_id = w.parent_id AND g.id <> w.id AND g.filled_quantity > 0
       AND (g.status = 'filled' AND order_line_ended(g.id)
            OR w.triggered_at IS NULL AND (NOT order_may_go_on(w.id, g.id)
                 OR w.trigger_price IS NULL AND NOT order_is_final(g.status) AND g.id NOT IN (SELECT r.id FROM order_replaced(w.id) r)))
     ORDER BY g.id LIMIT 1;
    IF what = 'queued' AND rival IS NOT NULL THEN
      what := 'canceled';
      why := format('order %s of its group has traded', rival);
    END IF;
    -- One that has triggered, a stop say, has its turn: what would rest in its group now would hold it up.
    SELECT g.id INTO rival FROM "order" g
     WHERE g.parent_id = w.parent_id AND g.id <> w.id AND w.trigger_price IS NULL AND g.triggered_at IS NOT NULL AND NOT order_is_final(g.status)
       AND g.id NOT IN (SELECT r.id FROM order_replaced(w.id) r) ORDER BY g.id LIMIT 1;
    IF what = 'queued' AND rival IS NOT NULL THEN
      what := 'canceled';
      why := format('order %s of its group has triggered', rival);
    END IF;
    IF what = 'queued' AND EXISTS (SELECT FROM order_replaced(w.id) r WHERE NOT order_is_final(r.status)) THEN
      what := 'waiting';
    END IF;
    IF what = 'queued' THEN
      SELECT * INTO rest FROM order_due(w);
      IF (rest.taken >= w.quantity) IS NOT TRUE AND w.trigger_price IS NOT NULL AND (w.triggered_at IS NULL
         OR EXISTS (SELECT FROM "order" g WHERE g.parent_id = w.parent_id AND g.id <> w.id AND g.status <> 'waiting' AND NOT order_is_final(g.status))) THEN
        what := 'waiting';
      ELSIF rest.due <= 0 THEN
        what := 'canceled';
        why := format('nothing is left of %s: %s', trim_scale(w.quantity), rest.why);
      ELSIF w.expires_at < clock_timestamp() THEN
        what := 'expired';
        why := 'it expired while it waited';
      END IF;
    END IF;
    IF what = 'queued' THEN
      UPDATE "order" SET status = what, due_quantity = nullif(rest.due, w.quantity), replaced_quantity = CASE WHEN w.replaces_id IS NOT NULL THEN rest.replaced END,
             reason = concat_ws('; ', coalesce(w.reason, why), CASE WHEN rest.due < w.quantity THEN format('%s of %s is due: %s', trim_scale(rest.due), trim_scale(w.quantity), rest.why) END)
       WHERE id = w.id;
    ELSIF what <> 'waiting' THEN
      UPDATE "order" SET status = what, reason = why WHERE id = w.id;
    END IF;
  END LOOP;
END $$;

-- Only the end of an order that was canceled, or that replaces another, comes here: that of the others costs nothing.
CREATE FUNCTION order_replaces_follow() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  ready bigint[];
BEGIN
  WITH RECURSIVE newer AS (
    SELECT o.id, o.status FROM "order" o WHERE o.replaces_id = NEW.id
    UNION ALL SELECT o.id, o.status FROM newer n JOIN "order" o ON o.replaces_id = n.id WHERE order_is_final(n.status))
  SELECT array_agg(x.id ORDER BY x.id) INTO ready
    FROM (SELECT id FROM newer WHERE status = 'waiting'
          UNION SELECT w.id FROM "order" w WHERE NEW.replaces_id IS NOT NULL AND w.account_id = NEW.account_id AND w.status = 'waiting' AND w.strategy_id = NEW.strategy_id
                   AND EXISTS (SELECT FROM "order" r WHERE r.replaces_id = w.after_id)) x;
  IF ready IS NOT NULL THEN
    PERFORM order_release(ready);
  END IF;
  RETURN NULL;
END $$;
COMMENT ON FUNCTION order_replaces_follow IS 'Trigger: the end of an order lets the one that replaces it go, and those that wait for the whole line.';
CREATE TRIGGER order_replaces_follow AFTER UPDATE ON "order" FOR EACH ROW
  WHEN (OLD.status <> NEW.status AND (NEW.cancel_requested_at IS NOT NULL OR NEW.replaces_id IS NOT NULL) AND order_is_final(NEW.status))
  EXECUTE FUNCTION order_replaces_follow();

-- These functions change in a few words each; whatever else they have become stays.
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
    ) x (function, old, new) LOOP
    definition := pg_get_functiondef(change.function::regproc);
    IF (length(definition) - length(replace(definition, change.old, ''))) / length(change.old) <> 1 THEN
      RAISE EXCEPTION '% does not have "%" once', change.function, change.old;
    END IF;
    EXECUTE replace(definition, change.old, change.new);
  END LOOP;
END $$;

CREATE OR REPLACE VIEW orders AS
  SELECT o.id, s.name AS strategy, o.status::text AS status, o.type::text AS type, o.side::text AS side,
         e.name || ':' || m.symbol AS market, a.code AS asset, trim_scale(o.quantity) AS quantity, trim_scale(o.quote_quantity) AS quote_quantity,
         trim_scale(o.limit_price) AS limit_price, trim_scale(o.filled_quantity) AS filled_quantity,
         round(o.filled_quote / nullif(o.filled_quantity, 0), 8) AS average_price, trim_scale(o.filled_quote) AS filled_quote,
         round(o.realised, 8) AS realised, o.reason, o.created_at, o.expires_at, o.bucket_time, o.submitted_at, o.cancel_requested_at, o.updated_at,
         c.name AS account, o.client_order_id, o.venue_order_id,
         o.time_in_force::text AS time_in_force, trim_scale(o.trigger_price) AS trigger_price, o.trigger_when::text AS trigger_when, o.triggered_at,
         o.after_id, o.parent_id, o.replaces_id, trim_scale(o.due_quantity) AS due_quantity
    FROM "order" o
    JOIN strategy s ON s.id = o.strategy_id
    JOIN account c ON c.id = o.account_id
    LEFT JOIN market m ON m.id = o.market_id
    LEFT JOIN exchange e ON e.id = m.exchange_id
    LEFT JOIN asset a ON a.id = o.asset_id;
COMMENT ON COLUMN "order".expires_at IS 'If no trader has seen it by then, it is denied as stale; one that still waits then is expired. One that rests at the venue stays. Default: order_ttl of its strategy after it was queued.';
COMMENT ON COLUMN "order".after_id IS 'It waits until that order has ended, and all that took its place: queued if they filled anything, with at most what they brought; else canceled.';
COMMENT ON COLUMN "order".parent_id IS 'Orders with the same parent are a group, of which one cancels the others: the first fill of one asks for the cancel of the rest; those that wait go on with what is left until one is filled.';
DO $$
DECLARE
  c record;
BEGIN
  FOR c IN SELECT v.attname AS name, col_description('"order"'::regclass, o.attnum) AS meaning FROM pg_attribute v JOIN pg_attribute o USING (attname)
            WHERE v.attrelid = 'orders'::regclass AND o.attrelid = '"order"'::regclass AND v.attnum > 0 AND o.attnum > 0 LOOP
    EXECUTE format('COMMENT ON COLUMN orders.%I IS %L', c.name, c.meaning);
  END LOOP;
END $$;

CREATE FUNCTION order_stuck(p_order bigint) RETURNS boolean LANGUAGE sql STABLE SET search_path = public, pg_temp AS $$
  SELECT order_line_ended(w.after_id) AND NOT EXISTS (SELECT FROM order_replaced(w.id) r WHERE NOT order_is_final(r.status))
         AND (w.trigger_price IS NULL OR (SELECT sum(l.filled_quantity) FROM order_line(w.after_id) l) = 0)
    FROM "order" w WHERE w.id = p_order $$;
COMMENT ON FUNCTION order_stuck IS 'Whether an order waits for others that have all ended: never true, see invariant_violation.';
CREATE FUNCTION order_triggered(p_order bigint) RETURNS boolean LANGUAGE sql STABLE SET search_path = public, pg_temp AS $$
  SELECT w.triggered_at IS NOT NULL AND NOT EXISTS (SELECT FROM order_replaced(w.id) r WHERE NOT order_is_final(r.status)) FROM "order" w WHERE w.id = p_order $$;
COMMENT ON FUNCTION order_triggered IS 'Whether the price of an order has come, and all that it replaces has ended.';

-- Two of its rules change in a word each, one is added; whatever else it has become stays.
DO $$
DECLARE
  definition text := rtrim(pg_get_viewdef('invariant_violation'), '; ');
BEGIN
  IF array_length(string_to_array(definition, 'order_is_final(a.status)'), 1) <> 2 OR array_length(string_to_array(definition, '(w.triggered_at IS NOT NULL)'), 1) <> 2 THEN
    RAISE EXCEPTION 'the rules of invariant_violation on orders that wait are not what they were';
  END IF;
  EXECUTE format('CREATE OR REPLACE VIEW invariant_violation AS %s UNION ALL
    SELECT %L, format(%L, w.id), w.status::text, format(%L, w.replaces_id)
      FROM "order" w
     WHERE w.status < %L AND w.replaces_id IS NOT NULL AND w.trigger_price IS NULL AND (w.after_id IS NULL OR order_line_ended(w.after_id))
       AND NOT EXISTS (SELECT FROM order_replaced(w.id) r WHERE NOT order_is_final(r.status))',
    replace(replace(definition, 'order_is_final(a.status)', 'order_stuck(w.id)'), '(w.triggered_at IS NOT NULL)', 'order_triggered(w.id)'),
    'an order waits for what it replaces only while that is open', 'order %s', 'it replaces order %s', 'queued');
END $$;

REVOKE EXECUTE ON FUNCTION order_doubt(), order_doubt_ends(), order_replaces_follow() FROM PUBLIC;
GRANT SELECT ON look_up, attempt_in_doubt, order_attempt TO tallydesk_reader, tallydesk_user;
GRANT INSERT (replaces_id) ON "order" TO tallydesk_user;


----------------------------------------------------------------------------------------------------
-- STREAM
----------------------------------------------------------------------------------------------------

-- The venue's user-data stream: one more way in which a fill becomes known, and a switch for each account.

ALTER TYPE fill_source ADD VALUE 'stream';
COMMENT ON COLUMN fill.source IS 'How we learned of it first: the answer to our request, a look-up of an order in doubt, the regular poll, the venue''s stream, or reconciliation, which finds what the others missed.';

ALTER TABLE account ADD COLUMN stream boolean NOT NULL DEFAULT true;
COMMENT ON COLUMN account.stream IS 'False: what happens to its orders is learned from answers, look-ups and polls alone, not from the venue''s websocket.';
GRANT UPDATE (stream) ON account TO tallydesk_user;


----------------------------------------------------------------------------------------------------
-- STORE
----------------------------------------------------------------------------------------------------

-- The candle store: what is missing, what was corrected and what has changed follow from the rows of bucket, by its triggers.

-- The two foreign keys of bucket cost more than the rest of a write. Every series has its row in bucket_feed, which its triggers
-- see to, and which cannot go while candles are there: what that row refers to cannot go either.
ALTER TABLE bucket DROP CONSTRAINT bucket_market_id_fkey, DROP CONSTRAINT bucket_timeframe_id_fkey;
ALTER TABLE bucket ADD COLUMN partial boolean NOT NULL DEFAULT false;
ALTER TYPE bucket_source ADD VALUE 'trades';
COMMENT ON COLUMN bucket.market_id IS 'Refers to market through bucket_feed.';
COMMENT ON COLUMN bucket.timeframe_id IS 'Refers to timeframe through bucket_feed.';
COMMENT ON COLUMN bucket.partial IS 'True: derived from a period in which candles are missing, all of them confirmed as "no trades".';
COMMENT ON COLUMN bucket.source IS 'fetched from the venue, imported from a file, derived from smaller ones, or built from trades.';

ALTER TABLE bucket_feed
  ADD COLUMN covered tstzmultirange NOT NULL DEFAULT '{}',
  ADD COLUMN revision bigint NOT NULL DEFAULT 0,
  ADD COLUMN rewritten bigint NOT NULL DEFAULT 0,
  ADD COLUMN digest bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN bucket_feed.covered IS 'Opening times that the venue was asked about and answered, less those whose candles were deleted since.';
COMMENT ON COLUMN bucket_feed.revision IS 'Grows with every statement that changes a candle of the series.';
COMMENT ON COLUMN bucket_feed.rewritten IS 'The revision of the last change that did more than to append after the newest candle.';
COMMENT ON COLUMN bucket_feed.digest IS 'XOR of candle_hash of all its candles: what a copy of them is proved by.';
COMMENT ON COLUMN bucket_feed.newest IS 'The close of the newest candle stored. Kept by the triggers of bucket.';

CREATE TYPE gap_kind AS ENUM ('not_fetched', 'no_trades', 'outage', 'before_listing');

CREATE TABLE gap (
  market_id      int NOT NULL,
  timeframe_id   smallint NOT NULL,
  gap_from       timestamptz NOT NULL,
  gap_to         timestamptz NOT NULL,
  missing        bigint NOT NULL CONSTRAINT missing_is_above_zero CHECK (missing > 0),
  verdict        gap_kind CONSTRAINT verdict_is_no_trades_or_outage CHECK (verdict IN ('no_trades', 'outage')),
  checks         int NOT NULL DEFAULT 0,
  checked_at     timestamptz,
  next_check_at  timestamptz,
  found_at       timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (market_id, timeframe_id, gap_from)
) WITH (fillfactor = 80);
COMMENT ON TABLE gap IS 'Candles that are not there, between two that are. Follows bucket; the view bucket_gap says more, with names.';
COMMENT ON COLUMN gap.market_id IS 'Refers to market through bucket_feed.';
COMMENT ON COLUMN gap.timeframe_id IS 'Refers to timeframe through bucket_feed.';
COMMENT ON COLUMN gap.gap_from IS 'Close of the candle before: the first opening time that is missing.';
COMMENT ON COLUMN gap.gap_to IS 'Opening of the next candle that is there.';
COMMENT ON COLUMN gap.missing IS 'How many candles that is.';
COMMENT ON COLUMN gap.verdict IS 'What the venue said when it was asked again: no_trades or outage; NULL: nobody has judged.';
COMMENT ON COLUMN gap.checks IS 'How often the venue was asked again.';
COMMENT ON COLUMN gap.checked_at IS 'When it was last asked.';
COMMENT ON COLUMN gap.found_at IS 'When it came to be, or the one that it is left of.';
COMMENT ON COLUMN gap.next_check_at IS 'When it is to be asked next; NULL: as soon as there is time.';

CREATE TABLE bucket_correction (
  id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  market_id     int NOT NULL,
  timeframe_id  smallint NOT NULL,
  time_close    timestamptz NOT NULL,
  old_open      float8 NOT NULL,
  old_high      float8 NOT NULL,
  old_low       float8 NOT NULL,
  old_close     float8 NOT NULL,
  old_volume    float8 NOT NULL,
  new_open      float8 NOT NULL,
  new_high      float8 NOT NULL,
  new_low       float8 NOT NULL,
  new_close     float8 NOT NULL,
  new_volume    float8 NOT NULL,
  old_source    bucket_source NOT NULL,
  new_source    bucket_source NOT NULL,
  corrected_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX bucket_correction_series ON bucket_correction (market_id, timeframe_id, time_close);
COMMENT ON TABLE bucket_correction IS 'A candle that was overwritten with other numbers, by whomever. Goes with the row of bucket_feed.';
COMMENT ON COLUMN bucket_correction.market_id IS 'Refers to market through bucket_feed.';
COMMENT ON COLUMN bucket_correction.timeframe_id IS 'Refers to timeframe through bucket_feed.';
COMMENT ON COLUMN bucket_correction.time_close IS 'Which candle.';
COMMENT ON COLUMN bucket_correction.corrected_at IS 'When it was overwritten.';
COMMENT ON COLUMN bucket_correction.old_open IS 'As it stood before.';
COMMENT ON COLUMN bucket_correction.old_high IS 'As it stood before.';
COMMENT ON COLUMN bucket_correction.old_low IS 'As it stood before.';
COMMENT ON COLUMN bucket_correction.old_close IS 'As it stood before.';
COMMENT ON COLUMN bucket_correction.old_volume IS 'As it stood before.';
COMMENT ON COLUMN bucket_correction.new_open IS 'As it stands now.';
COMMENT ON COLUMN bucket_correction.new_high IS 'As it stands now.';
COMMENT ON COLUMN bucket_correction.new_low IS 'As it stands now.';
COMMENT ON COLUMN bucket_correction.new_close IS 'As it stands now.';
COMMENT ON COLUMN bucket_correction.new_volume IS 'As it stands now.';
COMMENT ON COLUMN bucket_correction.old_source IS 'Where the numbers before came from.';
COMMENT ON COLUMN bucket_correction.new_source IS 'Where the numbers that stand now came from.';
CREATE TRIGGER follows BEFORE INSERT OR UPDATE OR DELETE ON bucket_correction FOR EACH STATEMENT
  EXECUTE FUNCTION only_from_triggers('it is the history of bucket');

-- Months and days are the calendar's, in UTC, whatever the session's time zone.
CREATE FUNCTION candle_time(moment timestamptz, candles float8, span interval) RETURNS timestamptz LANGUAGE sql STABLE AS $$
  SELECT (moment AT TIME ZONE 'UTC' + candles * span) AT TIME ZONE 'UTC' $$;
COMMENT ON FUNCTION candle_time IS 'A moment moved on by a number of candles (back, if below zero) of that length.';

CREATE FUNCTION candles_between(from_ timestamptz, to_ timestamptz, span interval) RETURNS bigint LANGUAGE sql STABLE AS $$
  SELECT CASE WHEN date_part('month', span) = 0 THEN floor(date_part('epoch', to_ - from_) / date_part('epoch', span))::bigint
    ELSE (SELECT (12 * date_part('year', t) + date_part('month', t) - 12 * date_part('year', f) - date_part('month', f))::bigint
                 - (date_trunc('month', f) < f)::int
            FROM (SELECT from_ AT TIME ZONE 'UTC' AS f, to_ AT TIME ZONE 'UTC' AS t) utc) END $$;
COMMENT ON FUNCTION candles_between IS 'How many whole candles of that length there are room for.';

CREATE FUNCTION candle_hash(time_close timestamptz, open float8, high float8, low float8, close float8, volume float8) RETURNS bigint
LANGUAGE sql STABLE AS $$
  SELECT hashfloat8extended(volume, hashfloat8extended(close, hashfloat8extended(low, hashfloat8extended(high, hashfloat8extended(open,
         hashfloat8extended(date_part('epoch', time_close), 1)))))) $$;
COMMENT ON FUNCTION candle_hash IS 'What bucket_feed.digest is made of.';

-- What is stored already.
INSERT INTO bucket_feed AS f (market_id, timeframe_id, enabled, status, collect_since, newest, revision, rewritten, digest)
SELECT b.market_id, b.timeframe_id, false, 'full', greatest(candle_time(min(b.time_close), -1, t.span), '1970-01-01Z'), max(b.time_close), 1, 1,
       bit_xor(candle_hash(b.time_close, b.open, b.high, b.low, b.close, b.volume))
  FROM bucket b JOIN timeframe t ON t.id = b.timeframe_id GROUP BY b.market_id, b.timeframe_id, t.span
ON CONFLICT (market_id, timeframe_id) DO UPDATE SET newest = EXCLUDED.newest, revision = 1, rewritten = 1, digest = EXCLUDED.digest;
UPDATE bucket_feed SET covered = tstzmultirange(tstzrange(oldest, newest)) WHERE oldest < newest;
INSERT INTO gap (market_id, timeframe_id, gap_from, gap_to, missing)
SELECT b.market_id, b.timeframe_id, b.previous, candle_time(b.time_close, -1, t.span), candles_between(b.previous, candle_time(b.time_close, -1, t.span), t.span)
  FROM (SELECT market_id, timeframe_id, time_close, lag(time_close) OVER (PARTITION BY market_id, timeframe_id ORDER BY time_close) AS previous FROM bucket) b
  JOIN timeframe t ON t.id = b.timeframe_id
 WHERE candle_time(b.previous, 1, t.span) <= candle_time(b.time_close, -1, t.span);

CREATE TRIGGER follows BEFORE INSERT OR DELETE OR TRUNCATE ON gap FOR EACH STATEMENT
  EXECUTE FUNCTION only_from_triggers('it follows the candles; write bucket instead');
CREATE TRIGGER judged BEFORE UPDATE ON gap FOR EACH STATEMENT EXECUTE FUNCTION only_from_processes('it follows the candles; write bucket instead');
CREATE TRIGGER follows_too AFTER UPDATE ON gap FOR EACH ROW
  WHEN ((OLD.market_id, OLD.timeframe_id, OLD.gap_from, OLD.gap_to, OLD.missing, OLD.found_at) IS DISTINCT FROM
        (NEW.market_id, NEW.timeframe_id, NEW.gap_from, NEW.gap_to, NEW.missing, NEW.found_at))
  EXECUTE FUNCTION only_from_triggers('where it is follows the candles; only what was found out about it is written');

-- Plans are made once for each connection and for no table's size in particular: planning anew costs four times as much as following one candle.
-- Points or stretches in which rows came or went. Only what lies between the row before and the row after each is looked at; all other gaps
-- stand. The caller has locked the series' row in bucket_feed, in a statement of its own, so that what others committed before is seen.
CREATE FUNCTION gap_follow(markets int[], timeframes smallint[], firsts timestamptz[], lasts timestamptz[]) RETURNS void
LANGUAGE plpgsql SET search_path = public, pg_temp SET timezone = 'UTC' SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  old record;
BEGIN
  WITH stretch AS MATERIALIZED (
    SELECT DISTINCT c.market_id, c.timeframe_id, t.span,
           coalesce((SELECT max(b.time_close) FROM bucket b
                      WHERE b.market_id = c.market_id AND b.timeframe_id = c.timeframe_id AND b.time_close < c.first), '-infinity') AS lower,
           coalesce((SELECT min(b.time_close) FROM bucket b
                      WHERE b.market_id = c.market_id AND b.timeframe_id = c.timeframe_id AND b.time_close > c.last), 'infinity') AS upper
      FROM unnest(markets, timeframes, firsts, lasts) c (market_id, timeframe_id, first, last) JOIN timeframe t ON t.id = c.timeframe_id),
  seen AS (
    SELECT DISTINCT s.market_id, s.timeframe_id, s.span, r.previous AS gap_from, r.time_close - s.span AS gap_to
      FROM stretch s CROSS JOIN LATERAL (
        SELECT b.time_close, lag(b.time_close) OVER (ORDER BY b.time_close) AS previous FROM bucket b
         WHERE b.market_id = s.market_id AND b.timeframe_id = s.timeframe_id AND b.time_close BETWEEN s.lower AND s.upper) r
     WHERE r.previous + s.span <= r.time_close - s.span)
  INSERT INTO gap AS g (market_id, timeframe_id, gap_from, gap_to, missing, verdict, checks, checked_at, next_check_at, found_at)
  SELECT n.market_id, n.timeframe_id, n.gap_from, n.gap_to, candles_between(n.gap_from, n.gap_to, n.span),
         o.verdict, coalesce(o.checks, 0), o.checked_at, o.next_check_at, coalesce(o.found_at, now())
    FROM seen n
    LEFT JOIN LATERAL (SELECT * FROM gap p WHERE p.market_id = n.market_id AND p.timeframe_id = n.timeframe_id AND p.gap_from <= n.gap_from
                        ORDER BY p.gap_from DESC LIMIT 1) o ON o.gap_to >= n.gap_to
   ORDER BY o.found_at  -- all are looked up before the first is written: the look-ups would wade through what this statement adds
  ON CONFLICT (market_id, timeframe_id, gap_from) DO UPDATE SET gap_to = EXCLUDED.gap_to, missing = EXCLUDED.missing,
    verdict = CASE WHEN g.gap_to > EXCLUDED.gap_to THEN g.verdict END,
    checks = CASE WHEN g.gap_to > EXCLUDED.gap_to THEN g.checks ELSE 0 END,
    checked_at = CASE WHEN g.gap_to > EXCLUDED.gap_to THEN g.checked_at END,
    next_check_at = CASE WHEN g.gap_to > EXCLUDED.gap_to THEN g.next_check_at END
   WHERE g.gap_to <> EXCLUDED.gap_to;
  -- Those at whose place none begins any more. One after the other, by key: a join's plan, once kept, could come to read all gaps.
  FOR old IN
    SELECT DISTINCT h.* FROM (
        SELECT c.market_id, c.timeframe_id, t.span,
               coalesce((SELECT max(b.time_close) FROM bucket b
                          WHERE b.market_id = c.market_id AND b.timeframe_id = c.timeframe_id AND b.time_close < c.first), '-infinity') AS lower,
               coalesce((SELECT min(b.time_close) FROM bucket b
                          WHERE b.market_id = c.market_id AND b.timeframe_id = c.timeframe_id AND b.time_close > c.last), 'infinity') AS upper
          FROM unnest(markets, timeframes, firsts, lasts) c (market_id, timeframe_id, first, last) JOIN timeframe t ON t.id = c.timeframe_id) s
     CROSS JOIN LATERAL (
        SELECT o.market_id, o.timeframe_id, o.gap_from FROM gap o
         WHERE o.market_id = s.market_id AND o.timeframe_id = s.timeframe_id AND o.gap_from >= s.lower AND o.gap_from < s.upper OFFSET 0) h
     -- Not NOT EXISTS, which may be planned as a hash of the whole table.
     WHERE (SELECT b.time_close FROM bucket b
             WHERE b.market_id = h.market_id AND b.timeframe_id = h.timeframe_id AND b.time_close = h.gap_from) IS NULL
        OR (SELECT min(b.time_close) FROM bucket b
             WHERE b.market_id = h.market_id AND b.timeframe_id = h.timeframe_id AND b.time_close > h.gap_from) - s.span
           >= h.gap_from + s.span IS NOT TRUE
  LOOP
    DELETE FROM gap g WHERE g.market_id = old.market_id AND g.timeframe_id = old.timeframe_id AND g.gap_from = old.gap_from;
  END LOOP;
END $$;
COMMENT ON FUNCTION gap_follow IS 'Put gap right around candles that came or went.';

CREATE FUNCTION bucket_inserted() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET timezone = 'UTC'
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  markets int[];
  timeframes smallint[];
  closes timestamptz[];
BEGIN
  -- The row of bucket_feed is the lock of its series: of two writers the later waits here, and looks for gaps with the eyes of its next statement.
  INSERT INTO bucket_feed AS f (market_id, timeframe_id, enabled, status, collect_since, newest, revision, rewritten, digest)
  SELECT n.market_id, n.timeframe_id, false, 'full', greatest(coalesce(min(n.time_close) - t.span, min(n.time_close)), '1970-01-01Z'),
         max(n.time_close), 1, 0, bit_xor(candle_hash(n.time_close, n.open, n.high, n.low, n.close, n.volume))
    FROM fresh n LEFT JOIN timeframe t ON t.id = n.timeframe_id GROUP BY n.market_id, n.timeframe_id, t.span ORDER BY 1, 2
  ON CONFLICT (market_id, timeframe_id) DO UPDATE SET revision = f.revision + 1, newest = greatest(f.newest, EXCLUDED.newest),
    rewritten = CASE WHEN f.newest <= EXCLUDED.collect_since THEN f.rewritten ELSE f.revision + 1 END, digest = f.digest # EXCLUDED.digest;
  IF NOT FOUND THEN
    RETURN NULL;
  END IF;
  -- Between rows that follow one another nothing can be missing: only the ends of each run are looked at.
  SELECT array_agg(market_id), array_agg(timeframe_id), array_agg(time_close) INTO markets, timeframes, closes
    FROM (SELECT n.market_id, n.timeframe_id, n.time_close, t.span, lag(n.time_close) OVER series AS before, lead(n.time_close) OVER series AS after
            FROM fresh n JOIN timeframe t ON t.id = n.timeframe_id WINDOW series AS (PARTITION BY n.market_id, n.timeframe_id ORDER BY n.time_close)) r
   WHERE before IS NULL OR after IS NULL OR before + span <= time_close - span OR time_close + span <= after - span;
  PERFORM gap_follow(markets, timeframes, closes, closes);
  RETURN NULL;
END $$;

CREATE FUNCTION bucket_deleted() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET timezone = 'UTC'
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  markets int[];
  timeframes smallint[];
  firsts timestamptz[];
  lasts timestamptz[];
BEGIN
  SELECT array_agg(market_id), array_agg(timeframe_id), array_agg(first), array_agg(last) INTO markets, timeframes, firsts, lasts
    FROM (SELECT market_id, timeframe_id, min(time_close) AS first, max(time_close) AS last
            FROM (SELECT *, count(*) FILTER (WHERE starts) OVER (PARTITION BY market_id, timeframe_id ORDER BY time_close) AS run
                    FROM (SELECT o.market_id, o.timeframe_id, o.time_close,
                                 coalesce(lag(o.time_close) OVER (PARTITION BY o.market_id, o.timeframe_id ORDER BY o.time_close) + t.span
                                          <= o.time_close - t.span, true) AS starts
                            FROM stale o JOIN timeframe t ON t.id = o.timeframe_id) s) r
           GROUP BY market_id, timeframe_id, run) island;
  IF markets IS NULL THEN
    RETURN NULL;
  END IF;
  INSERT INTO bucket_feed AS f (market_id, timeframe_id, enabled, status, collect_since, covered, digest)
  SELECT d.market_id, d.timeframe_id, false, 'full', d.since, c.covered, d.digest
    FROM (SELECT market_id, timeframe_id, min(time_close) AS since, bit_xor(candle_hash(time_close, open, high, low, close, volume)) AS digest
            FROM stale GROUP BY 1, 2) d
    JOIN (SELECT c.market_id, c.timeframe_id, range_agg(tstzrange(c.first - t.span, c.last)) AS covered
            FROM unnest(markets, timeframes, firsts, lasts) c (market_id, timeframe_id, first, last) JOIN timeframe t ON t.id = c.timeframe_id
           GROUP BY 1, 2) c USING (market_id, timeframe_id)
   ORDER BY 1, 2
  ON CONFLICT (market_id, timeframe_id) DO UPDATE SET revision = f.revision + 1, rewritten = f.revision + 1,
    digest = f.digest # EXCLUDED.digest, covered = f.covered - EXCLUDED.covered;
  PERFORM bucket_moved(markets, timeframes, firsts, lasts);
  RETURN NULL;
END $$;

CREATE FUNCTION bucket_moved(markets int[], timeframes smallint[], firsts timestamptz[], lasts timestamptz[]) RETURNS void
LANGUAGE plpgsql SET search_path = public, pg_temp SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  UPDATE bucket_feed f
     SET newest = (SELECT max(b.time_close) FROM bucket b WHERE b.market_id = f.market_id AND b.timeframe_id = f.timeframe_id)
   WHERE (f.market_id, f.timeframe_id) IN (SELECT DISTINCT m, t FROM unnest(markets, timeframes) u (m, t))
     AND f.newest IS DISTINCT FROM (SELECT max(b.time_close) FROM bucket b WHERE b.market_id = f.market_id AND b.timeframe_id = f.timeframe_id);
  PERFORM gap_follow(markets, timeframes, firsts, lasts);
END $$;
COMMENT ON FUNCTION bucket_moved IS 'Put bucket_feed.newest and gap right where candles went.';

CREATE FUNCTION bucket_updated() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET timezone = 'UTC'
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  markets int[];
  timeframes smallint[];
  closes timestamptz[];
BEGIN
  -- Paired by what they are, not by id: a row whose market, timeframe or time was changed is one that went and one that came.
  WITH pair AS MATERIALIZED (
    SELECT coalesce(o.market_id, n.market_id) AS market_id, coalesce(o.timeframe_id, n.timeframe_id) AS timeframe_id,
           coalesce(o.time_close, n.time_close) AS time_close, o.id IS NOT NULL AS was, n.id IS NOT NULL AS is_,
           o.open AS old_open, o.high AS old_high, o.low AS old_low, o.close AS old_close, o.volume AS old_volume, o.source AS old_source,
           n.open AS new_open, n.high AS new_high, n.low AS new_low, n.close AS new_close, n.volume AS new_volume, n.source AS new_source,
           (o.open, o.high, o.low, o.close, o.volume) IS DISTINCT FROM (n.open, n.high, n.low, n.close, n.volume) AS corrected
      FROM stale o FULL JOIN fresh n
        ON n.market_id = o.market_id AND n.timeframe_id = o.timeframe_id AND n.time_close = o.time_close
     WHERE (o.open, o.high, o.low, o.close, o.volume, o.source, o.partial) IS DISTINCT FROM
           (n.open, n.high, n.low, n.close, n.volume, n.source, n.partial)),
  correction AS (
    INSERT INTO bucket_correction (market_id, timeframe_id, time_close, old_open, old_high, old_low, old_close, old_volume,
                                   new_open, new_high, new_low, new_close, new_volume, old_source, new_source)
    SELECT market_id, timeframe_id, time_close, old_open, old_high, old_low, old_close, old_volume,
           new_open, new_high, new_low, new_close, new_volume, old_source, new_source
      FROM pair WHERE was AND is_ AND corrected),
  feed AS (
    INSERT INTO bucket_feed AS f (market_id, timeframe_id, enabled, status, collect_since, newest, revision, rewritten, digest, covered)
    SELECT p.market_id, p.timeframe_id, false, 'full', greatest(coalesce(min(p.time_close) - t.span, min(p.time_close)), '1970-01-01Z'),
           max(p.time_close) FILTER (WHERE is_), 1, 1,
           coalesce(bit_xor(candle_hash(p.time_close, old_open, old_high, old_low, old_close, old_volume)) FILTER (WHERE was), 0)
           # coalesce(bit_xor(candle_hash(p.time_close, new_open, new_high, new_low, new_close, new_volume)) FILTER (WHERE is_), 0),
           coalesce(range_agg(tstzrange(p.time_close - t.span, p.time_close)) FILTER (WHERE NOT is_), '{}')
      FROM pair p LEFT JOIN timeframe t ON t.id = p.timeframe_id GROUP BY p.market_id, p.timeframe_id, t.span ORDER BY 1, 2
    ON CONFLICT (market_id, timeframe_id) DO UPDATE SET revision = f.revision + 1, rewritten = f.revision + 1,
      newest = greatest(f.newest, EXCLUDED.newest), digest = f.digest # EXCLUDED.digest, covered = f.covered - EXCLUDED.covered)
  SELECT array_agg(market_id), array_agg(timeframe_id), array_agg(time_close) INTO markets, timeframes, closes FROM pair WHERE was <> is_;
  IF markets IS NOT NULL THEN
    PERFORM bucket_moved(markets, timeframes, closes, closes);
  END IF;
  RETURN NULL;
END $$;

CREATE FUNCTION bucket_truncated() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
  DELETE FROM gap;
  UPDATE bucket_feed SET newest = NULL, covered = '{}', digest = 0, revision = revision + 1, rewritten = revision + 1
   WHERE newest IS NOT NULL OR covered <> '{}' OR revision > 0;
  RETURN NULL;
END $$;

COMMENT ON FUNCTION bucket_inserted IS 'Trigger: what follows from new candles: the row of bucket_feed, gaps.';
COMMENT ON FUNCTION bucket_updated IS 'Trigger: what follows from changed candles: bucket_feed, corrections, gaps.';
COMMENT ON FUNCTION bucket_deleted IS 'Trigger: what follows from candles that went: bucket_feed, gaps.';
COMMENT ON FUNCTION bucket_truncated IS 'Trigger: no candles, no gaps, nothing covered.';

CREATE TRIGGER inserted AFTER INSERT ON bucket REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION bucket_inserted();
CREATE TRIGGER updated AFTER UPDATE ON bucket REFERENCING OLD TABLE AS stale NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION bucket_updated();
CREATE TRIGGER deleted AFTER DELETE ON bucket REFERENCING OLD TABLE AS stale FOR EACH STATEMENT EXECUTE FUNCTION bucket_deleted();
CREATE TRIGGER truncated AFTER TRUNCATE ON bucket FOR EACH STATEMENT EXECUTE FUNCTION bucket_truncated();

-- What stands in for the foreign keys of bucket.
CREATE FUNCTION bucket_feed_kept() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
  IF TG_LEVEL = 'STATEMENT' THEN
    IF EXISTS (SELECT FROM bucket) THEN
      RAISE EXCEPTION 'TRUNCATE on "bucket_feed" is refused: there are candles; TRUNCATE bucket first' USING ERRCODE = 'foreign_key_violation';
    END IF;
    RETURN NULL;
  END IF;
  IF EXISTS (SELECT FROM bucket WHERE market_id = OLD.market_id AND timeframe_id = OLD.timeframe_id) THEN
    RAISE EXCEPTION '% on "bucket_feed" is refused: there are candles of market % and timeframe %; to stop it: UPDATE bucket_feed SET enabled = false; or DELETE its candles first',
      TG_OP, OLD.market_id, OLD.timeframe_id USING ERRCODE = 'foreign_key_violation';
  END IF;
  DELETE FROM bucket_correction WHERE market_id = OLD.market_id AND timeframe_id = OLD.timeframe_id;
  RETURN NULL;
END $$;
COMMENT ON FUNCTION bucket_feed_kept IS 'Trigger: the row of a series stays while it has candles.';
CREATE TRIGGER kept AFTER DELETE ON bucket_feed FOR EACH ROW EXECUTE FUNCTION bucket_feed_kept();
CREATE TRIGGER moved AFTER UPDATE ON bucket_feed FOR EACH ROW
  WHEN ((OLD.market_id, OLD.timeframe_id) IS DISTINCT FROM (NEW.market_id, NEW.timeframe_id)) EXECUTE FUNCTION bucket_feed_kept();
CREATE TRIGGER emptied BEFORE TRUNCATE ON bucket_feed FOR EACH STATEMENT EXECUTE FUNCTION bucket_feed_kept();
CREATE TRIGGER follows AFTER UPDATE ON bucket_feed FOR EACH ROW
  WHEN ((OLD.revision, OLD.rewritten, OLD.digest) IS DISTINCT FROM (NEW.revision, NEW.rewritten, NEW.digest))
  EXECUTE FUNCTION only_from_triggers('revision, rewritten and digest follow the candles');
REVOKE EXECUTE ON FUNCTION bucket_inserted(), bucket_updated(), bucket_deleted(), bucket_truncated(), bucket_feed_kept() FROM PUBLIC;

DROP VIEW bucket_gap;
CREATE VIEW bucket_gap AS
  SELECT e.name || ':' || m.symbol AS market, t.name AS timeframe, g.gap_from, g.gap_to, g.missing, g.kind, g.checks, g.found_at
    FROM (
      SELECT g.market_id, g.timeframe_id, g.gap_from, g.gap_to, g.missing, g.checks, g.found_at,
             coalesce(g.verdict, CASE WHEN f.covered @> tstzrange(g.gap_from, g.gap_to) THEN 'outage' ELSE 'not_fetched' END::gap_kind) AS kind
        FROM gap g JOIN bucket_feed f USING (market_id, timeframe_id)
      UNION ALL
      SELECT f.market_id, f.timeframe_id, r.gap_from, r.gap_to, candles_between(r.gap_from, r.gap_to, t.span), 0, NULL, r.kind
        FROM bucket_feed f
        JOIN timeframe t ON t.id = f.timeframe_id
        JOIN market m ON m.id = f.market_id
        JOIN exchange e ON e.id = m.exchange_id
        -- What closed candles there can be: on a replay its own clock counts, which is not here.
        CROSS JOIN LATERAL (
          SELECT (SELECT min(b.time_close) FROM bucket b WHERE b.market_id = f.market_id AND b.timeframe_id = f.timeframe_id) AS first,
                 coalesce(f.collect_since, lower(f.covered)) AS since) s
        CROSS JOIN LATERAL (
          SELECT CASE WHEN e.replay THEN coalesce(f.newest, s.since)
                      WHEN t.span = '1 month' THEN date_trunc('month', now(), 'UTC')
                      ELSE candle_time(coalesce(f.newest, s.since), candles_between(coalesce(f.newest, s.since), now(), t.span), t.span) END AS last) h
        CROSS JOIN LATERAL (
          SELECT lower(p) AS gap_from, upper(p) AS gap_to, 'not_fetched'::gap_kind AS kind
            FROM unnest(tstzmultirange(tstzrange(s.since, greatest(s.since, coalesce(candle_time(s.first, -1, t.span), h.last)))) - f.covered) p
          UNION ALL
          SELECT lower(p), upper(p), 'before_listing'
            FROM unnest(tstzmultirange(tstzrange(s.since, greatest(s.since, coalesce(candle_time(s.first, -1, t.span), h.last)))) * f.covered) p
          UNION ALL
          SELECT lower(p), upper(p), 'not_fetched' FROM unnest(tstzmultirange(tstzrange(f.newest, greatest(f.newest, h.last))) - f.covered) p
           WHERE s.first IS NOT NULL
          UNION ALL
          SELECT lower(p), upper(p), 'outage' FROM unnest(tstzmultirange(tstzrange(f.newest, greatest(f.newest, h.last))) * f.covered) p
           WHERE s.first IS NOT NULL) r
       WHERE f.enabled AND s.since IS NOT NULL AND candles_between(r.gap_from, r.gap_to, t.span) > 0) g
    JOIN timeframe t ON t.id = g.timeframe_id
    JOIN market m ON m.id = g.market_id
    JOIN exchange e ON e.id = m.exchange_id;
COMMENT ON VIEW bucket_gap IS 'Candles that are not there, and why: between two that are; of feeds that are on, also before the first and after the newest.';
COMMENT ON COLUMN bucket_gap.gap_from IS 'The first opening time that is missing.';
COMMENT ON COLUMN bucket_gap.gap_to IS 'Opening of the next candle that is there, or would be.';
COMMENT ON COLUMN bucket_gap.missing IS 'How many candles that is.';
COMMENT ON COLUMN bucket_gap.kind IS 'not_fetched: the venue was not asked about all of it; no_trades: the venue confirmed that nobody traded; outage: it was asked and gave none; before_listing: the same before the first candle of all.';
COMMENT ON COLUMN bucket_gap.checks IS 'How often the venue was asked again.';
COMMENT ON COLUMN bucket_gap.found_at IS 'Since when it is known; NULL: it follows from the clock.';
GRANT SELECT ON gap, bucket_correction, bucket_gap TO tallydesk_reader, tallydesk_user;


----------------------------------------------------------------------------------------------------
-- UPDATE
----------------------------------------------------------------------------------------------------

-- Feeds: what has been asked for is bucket_feed.covered; who serves which feed, and when the next time is, are columns of the feed itself.

ALTER TABLE bucket_feed
  ALTER COLUMN collect_since DROP NOT NULL,
  DROP COLUMN oldest,
  ADD COLUMN exchange_id int REFERENCES exchange,
  ADD COLUMN listed_at timestamptz,
  ADD COLUMN reachable_from timestamptz,
  ADD COLUMN keep interval CONSTRAINT keep_is_at_least_an_hour CHECK (keep >= interval '1 hour'),
  ADD COLUMN refused bigint NOT NULL DEFAULT 0,
  ADD COLUMN due_at timestamptz NOT NULL DEFAULT now(),
  ADD COLUMN backfill_at timestamptz DEFAULT now(),
  ADD COLUMN failures int NOT NULL DEFAULT 0,
  ADD COLUMN leased_by uuid,
  ADD COLUMN lease_until timestamptz;
UPDATE bucket_feed f SET exchange_id = m.exchange_id FROM market m WHERE m.id = f.market_id;
COMMENT ON COLUMN bucket_feed.collect_since IS 'Candles that open before this are not fetched. NULL: from the first candle that the venue has.';
COMMENT ON COLUMN bucket_feed.exchange_id IS 'The exchange of the market, so that what is due at an exchange is found by an index. Nobody writes it.';
COMMENT ON COLUMN bucket_feed.listed_at IS 'When the first candle of all opens that the venue has; NULL: not asked yet. Empty it to have it asked again.';
COMMENT ON COLUMN bucket_feed.reachable_from IS 'The venue gives nothing from before this, whatever it is asked for (Kraken: the newest 720 candles); NULL: no such limit was met. What is older stays not fetched.';
COMMENT ON COLUMN bucket_feed.keep IS 'How long candles are kept: older ones are deleted, and not fetched. NULL: for ever.';
COMMENT ON COLUMN bucket_feed.refused IS 'How many candles of the venue were refused: see bucket_refusal.';
COMMENT ON COLUMN bucket_feed.due_at IS 'When the newest candles are asked for next.';
COMMENT ON COLUMN bucket_feed.backfill_at IS 'Older candles are missing, and who has waited longest since this is served first; NULL: none is missing.';
COMMENT ON COLUMN bucket_feed.failures IS 'How often in a row serving it has failed: the pause until the next time doubles with each.';
COMMENT ON COLUMN bucket_feed.leased_by IS 'The instance (role.instance) of the worker that serves it just now.';
COMMENT ON COLUMN bucket_feed.lease_until IS 'When others may serve it, should that worker hang; when it dies they may at once.';

CREATE INDEX feeds_to_update ON bucket_feed (exchange_id, due_at) WHERE enabled;
CREATE INDEX feeds_to_backfill ON bucket_feed (exchange_id, backfill_at) WHERE enabled AND backfill_at IS NOT NULL;
CREATE INDEX feeds_in_service ON bucket_feed (leased_by) WHERE leased_by IS NOT NULL;

CREATE FUNCTION bucket_feed_exchange() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  SELECT exchange_id INTO NEW.exchange_id FROM market WHERE id = NEW.market_id;
  RETURN NEW;
END $$;
CREATE TRIGGER a_feed_is_at_the_exchange_of_its_market BEFORE INSERT OR UPDATE OF market_id, exchange_id ON bucket_feed
  FOR EACH ROW EXECUTE FUNCTION bucket_feed_exchange();

-- What a person changes is obeyed at the next tick, whatever the feed was waiting for.
CREATE FUNCTION bucket_feed_obeys() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.due_at := clock_timestamp();
  NEW.backfill_at := clock_timestamp();
  NEW.failures := 0;
  IF NEW.collect_since IS DISTINCT FROM OLD.collect_since THEN
    NEW.reachable_from := NULL;
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER a_feed_that_is_changed_is_due BEFORE UPDATE OF enabled, collect_since, keep ON bucket_feed
  FOR EACH ROW WHEN ((OLD.enabled, OLD.collect_since, OLD.keep) IS DISTINCT FROM (NEW.enabled, NEW.collect_since, NEW.keep))
  EXECUTE FUNCTION bucket_feed_obeys();

CREATE TABLE bucket_refusal (
  market_id     int NOT NULL REFERENCES market,
  timeframe_id  smallint NOT NULL REFERENCES timeframe,
  stamp         text NOT NULL,
  field         text NOT NULL,
  reason        text NOT NULL,
  first_seen    timestamptz NOT NULL DEFAULT clock_timestamp(),
  last_seen     timestamptz NOT NULL DEFAULT clock_timestamp(),
  times         bigint NOT NULL DEFAULT 1,
  PRIMARY KEY (market_id, timeframe_id, stamp, field)
);
COMMENT ON TABLE bucket_refusal IS 'A candle that a venue gave and that cannot be: it was left out, the rest of its page was kept.';
COMMENT ON COLUMN bucket_refusal.stamp IS 'When it says that it opens, UTC; the row as it came where that cannot be read.';
COMMENT ON COLUMN bucket_refusal.field IS 'The field to blame.';
COMMENT ON COLUMN bucket_refusal.reason IS 'What is wrong with it.';
COMMENT ON COLUMN bucket_refusal.first_seen IS 'When it came first.';
COMMENT ON COLUMN bucket_refusal.last_seen IS 'When it came last.';
COMMENT ON COLUMN bucket_refusal.times IS 'How often it came.';

-- Where the wanted part of a feed begins and ends. On a replay the venue's clock is not known: its newest candle is the end.
CREATE VIEW feeds AS
  SELECT e.name || ':' || m.symbol AS market, t.name AS timeframe, f.status::text AS status, f.enabled,
         coalesce(to_char(f.collect_since AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI'), 'listing') AS collect_since, f.keep,
         (SELECT b.time_close - t.span FROM bucket b WHERE b.market_id = f.market_id AND b.timeframe_id = f.timeframe_id
           ORDER BY b.time_close LIMIT 1) AS oldest,
         f.newest,
         CASE WHEN f.enabled AND NOT e.replay THEN greatest(interval '0', clock_timestamp() - f.newest - t.span) END AS lag,
         CASE WHEN f.status = 'full' THEN 100.0
              WHEN w.start IS NULL OR w.stop <= w.start THEN 0.0
              ELSE least(99.9, round(100 * (SELECT coalesce(sum(extract(epoch FROM upper(r) - lower(r))), 0)
                                              FROM unnest(f.covered * tstzmultirange(tstzrange(w.start, w.stop))) r)
                                     / extract(epoch FROM w.stop - w.start), 1)) END AS progress,
         (SELECT count(*) FROM gap g WHERE g.market_id = f.market_id AND g.timeframe_id = f.timeframe_id) AS gaps,
         f.refused, f.last_error
    FROM bucket_feed f
    JOIN market m ON m.id = f.market_id
    JOIN exchange e ON e.id = m.exchange_id
    JOIN timeframe t ON t.id = f.timeframe_id
   CROSS JOIN LATERAL (SELECT CASE WHEN e.replay OR NOT f.enabled THEN f.newest ELSE clock_timestamp() - t.span END AS stop) s
   CROSS JOIN LATERAL (SELECT greatest(coalesce(f.collect_since, f.listed_at), f.reachable_from, s.stop - f.keep) AS start, s.stop
                        WHERE coalesce(f.collect_since, f.listed_at) IS NOT NULL
                       UNION ALL SELECT NULL, s.stop WHERE coalesce(f.collect_since, f.listed_at) IS NULL) w;
COMMENT ON VIEW feeds IS 'The candle feeds, and how far each is.';
COMMENT ON COLUMN feeds.status IS 'absent: nothing stored; building: history is being fetched; full: up to date; error: see last_error.';
COMMENT ON COLUMN feeds.enabled IS 'False: not updated; what is stored stays.';
COMMENT ON COLUMN feeds.last_error IS 'Why it could not be served the last time; NULL after a good one.';
COMMENT ON COLUMN feeds.collect_since IS 'From when on candles are wanted; listing: from the first that the venue has.';
COMMENT ON COLUMN feeds.keep IS 'How long candles are kept; NULL: for ever.';
COMMENT ON COLUMN feeds.oldest IS 'When the oldest candle stored opens.';
COMMENT ON COLUMN feeds.newest IS 'When the newest candle stored closes.';
COMMENT ON COLUMN feeds.lag IS 'How long a newer candle could have been there already; NULL: not kept up to date, or replayed on another clock.';
COMMENT ON COLUMN feeds.progress IS 'Percent of the wanted time that the venue was asked for and has answered.';
COMMENT ON COLUMN feeds.gaps IS 'Gaps between its candles: see bucket_gap.';
COMMENT ON COLUMN feeds.refused IS 'Candles of the venue that were refused: see bucket_refusal.';

GRANT SELECT ON bucket_refusal, feeds TO tallydesk_reader, tallydesk_user;
GRANT UPDATE (keep) ON bucket_feed TO tallydesk_user;


----------------------------------------------------------------------------------------------------
-- GAPS
----------------------------------------------------------------------------------------------------

-- Larger candles out of smaller ones, and what is known of candles that are missing.

ALTER TABLE bucket_feed
  ADD COLUMN derived_from smallint REFERENCES timeframe,
  ADD COLUMN outdated tstzmultirange NOT NULL DEFAULT '{}',
  ADD COLUMN quiet tstzmultirange NOT NULL DEFAULT '{}',
  ADD CONSTRAINT derived_from_divides_the_timeframe CHECK (
    timeframe_id > derived_from AND CASE WHEN timeframe_id = 32767 THEN 1440 ELSE timeframe_id END % derived_from = 0);
COMMENT ON COLUMN bucket_feed.derived_from IS 'Its candles are made of those of this timeframe of the same market, and the venue is not asked; NULL: they are fetched.';
COMMENT ON COLUMN bucket_feed.outdated IS 'Where candles of derived_from came, went, changed or were judged since the last time that this series was derived from them.';
COMMENT ON COLUMN bucket_feed.quiet IS 'Opening times before the first candle or after the newest that are declared to have no trades. A candle that comes takes its time out of it.';
CREATE INDEX bucket_feed_derived ON bucket_feed (market_id, derived_from) WHERE derived_from IS NOT NULL;
GRANT UPDATE (derived_from) ON bucket_feed TO tallydesk_user;

ALTER TABLE gap ADD COLUMN quiet_at timestamptz;
COMMENT ON COLUMN gap.quiet_at IS 'When all of the venue''s trades in this window were first read, and there were none; found again at a later check, the verdict is no_trades.';
CREATE INDEX gap_open ON gap (market_id, timeframe_id, gap_from) WHERE verdict IS DISTINCT FROM 'no_trades';

CREATE FUNCTION candle_start(moment timestamptz, span interval) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE WHEN date_part('month', span) > 0 THEN date_trunc('month', moment AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'
              ELSE date_bin(span, moment, CASE WHEN span = interval '7 days' THEN '1970-01-05Z' ELSE '1970-01-01Z' END::timestamptz) END $$;
COMMENT ON FUNCTION candle_start IS 'When the candle of that length opens that holds a moment: in UTC, weeks on Monday, months on the first.';

-- A multirange that has many parts costs more than to derive what lies between them.
CREATE FUNCTION bucket_outdate(market int, timeframe smallint, stretch tstzmultirange) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
BEGIN
  PERFORM FROM bucket_feed WHERE market_id = market AND derived_from = timeframe ORDER BY timeframe_id FOR NO KEY UPDATE;
  UPDATE bucket_feed d SET outdated = u.all_ FROM (
    SELECT f.timeframe_id, CASE WHEN (SELECT count(*) FROM unnest(f.outdated + stretch)) > 50 THEN tstzmultirange(range_merge(f.outdated + stretch))
                                ELSE f.outdated + stretch END AS all_
      FROM bucket_feed f WHERE f.market_id = market AND f.derived_from = timeframe) u
   WHERE d.market_id = market AND d.timeframe_id = u.timeframe_id AND d.outdated <> u.all_;
END $$;
COMMENT ON FUNCTION bucket_outdate IS 'Have everything that is derived from this series derived again for a stretch of opening times.';

-- Where nothing is derived and nothing declared, one look at two small indexes is all that a write pays for.
CREATE INDEX bucket_feed_quiet ON bucket_feed (market_id, timeframe_id) WHERE quiet <> '{}';
CREATE FUNCTION bucket_outdates() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET timezone = 'UTC'
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$  -- where nothing was counted yet, the look would read all feeds
DECLARE
  changed CONSTANT text[] := CASE TG_OP WHEN 'INSERT' THEN '{fresh}' WHEN 'DELETE' THEN '{stale}' ELSE '{fresh,stale}' END;
  name text;
  one record;
BEGIN
  IF NOT EXISTS (SELECT FROM bucket_feed WHERE derived_from IS NOT NULL) AND NOT EXISTS (SELECT FROM bucket_feed WHERE quiet <> '{}') THEN
    RETURN NULL;
  END IF;
  FOREACH name IN ARRAY changed LOOP
    FOR one IN EXECUTE format($x$
      SELECT c.market_id, c.timeframe_id,
             CASE WHEN max(c.time_close) - min(c.time_close) <= 2 * count(*) * t.span
                  THEN tstzmultirange(tstzrange(min(c.time_close) - t.span, max(c.time_close)))
                  ELSE range_agg(tstzrange(c.time_close - t.span, c.time_close)) END AS stretch
        FROM %I c JOIN timeframe t ON t.id = c.timeframe_id
       GROUP BY c.market_id, c.timeframe_id, t.span ORDER BY 1, 2 $x$, name)
    LOOP
      IF TG_OP <> 'DELETE' THEN
        UPDATE bucket_feed SET quiet = quiet - one.stretch
         WHERE market_id = one.market_id AND timeframe_id = one.timeframe_id AND quiet <> '{}' AND quiet && one.stretch;
      END IF;
      PERFORM bucket_outdate(one.market_id, one.timeframe_id, one.stretch);
    END LOOP;
  END LOOP;
  RETURN NULL;
END $$;
COMMENT ON FUNCTION bucket_outdates IS 'Trigger: what is derived from these candles is to be derived again.';
CREATE TRIGGER outdates_inserted AFTER INSERT ON bucket REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION bucket_outdates();
CREATE TRIGGER outdates_updated AFTER UPDATE ON bucket REFERENCING OLD TABLE AS stale NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION bucket_outdates();
CREATE TRIGGER outdates_deleted AFTER DELETE ON bucket REFERENCING OLD TABLE AS stale FOR EACH STATEMENT EXECUTE FUNCTION bucket_outdates();

-- A gap in which nobody traded does not hold a larger candle up. One that has just been found may lie where that was declared.
CREATE FUNCTION gap_outdates() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  one record;
BEGIN
  IF TG_OP = 'INSERT' THEN
    IF NOT EXISTS (SELECT FROM bucket_feed WHERE quiet <> '{}') THEN
      RETURN NULL;
    END IF;
    UPDATE gap g SET verdict = 'no_trades', checked_at = clock_timestamp() FROM fresh n JOIN bucket_feed f USING (market_id, timeframe_id)
     WHERE f.quiet <> '{}' AND f.quiet @> tstzrange(n.gap_from, n.gap_to) AND n.verdict IS NULL
       AND g.market_id = n.market_id AND g.timeframe_id = n.timeframe_id AND g.gap_from = n.gap_from;
    RETURN NULL;
  ELSIF TG_OP = 'UPDATE' THEN
    -- Grouped, not joined: what has no statistics would be joined row against row.
    FOR one IN SELECT market_id, timeframe_id, CASE WHEN count(*) > 50 THEN tstzmultirange(tstzrange(min(gap_from), max(gap_to)))
                                                    ELSE range_agg(tstzrange(gap_from, gap_to)) END AS stretch
                 FROM (SELECT market_id, timeframe_id, gap_from, max(gap_to) AS gap_to
                         FROM (SELECT market_id, timeframe_id, gap_from, gap_to, verdict FROM fresh
                               UNION ALL SELECT market_id, timeframe_id, gap_from, gap_to, verdict FROM stale) u
                        GROUP BY 1, 2, 3 HAVING count(DISTINCT coalesce(verdict::text, '')) > 1) c
                GROUP BY 1, 2 ORDER BY 1, 2 LOOP
      PERFORM bucket_outdate(one.market_id, one.timeframe_id, one.stretch);
    END LOOP;
  ELSE
    FOR one IN SELECT market_id, timeframe_id, CASE WHEN count(*) > 50 THEN tstzmultirange(tstzrange(min(gap_from), max(gap_to)))
                                                    ELSE range_agg(tstzrange(gap_from, gap_to)) END AS stretch
                 FROM stale WHERE verdict IS NOT NULL GROUP BY 1, 2 ORDER BY 1, 2 LOOP
      PERFORM bucket_outdate(one.market_id, one.timeframe_id, one.stretch);
    END LOOP;
  END IF;
  RETURN NULL;
END $$;
COMMENT ON FUNCTION gap_outdates IS 'Trigger: what is derived from candles around this gap is to be derived again.';
CREATE TRIGGER outdates_inserted AFTER INSERT ON gap REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION gap_outdates();
CREATE TRIGGER outdates_updated AFTER UPDATE ON gap REFERENCING OLD TABLE AS stale NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION gap_outdates();
CREATE TRIGGER outdates_deleted AFTER DELETE ON gap REFERENCING OLD TABLE AS stale FOR EACH STATEMENT EXECUTE FUNCTION gap_outdates();

-- The venue is never asked for what is derived: such a feed is never due.
CREATE FUNCTION bucket_feed_is_derived() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.derived_from IS NOT NULL THEN
    NEW.due_at := '9000-01-01Z';
    NEW.backfill_at := NULL;
  ELSE
    NEW.due_at := clock_timestamp();
    NEW.backfill_at := clock_timestamp();
  END IF;
  IF TG_OP = 'INSERT' OR (OLD.derived_from, OLD.collect_since) IS DISTINCT FROM (NEW.derived_from, NEW.collect_since) THEN
    NEW.outdated := CASE WHEN NEW.derived_from IS NULL THEN '{}' ELSE '{(,)}' END;
  END IF;
  RETURN NEW;
END $$;
COMMENT ON FUNCTION bucket_feed_is_derived IS 'Trigger: a series that begins to be derived is derived as a whole, and not fetched.';
CREATE TRIGGER b_derived_feed BEFORE INSERT ON bucket_feed FOR EACH ROW
  WHEN (NEW.derived_from IS NOT NULL) EXECUTE FUNCTION bucket_feed_is_derived();
CREATE TRIGGER b_derived_feed_changed BEFORE UPDATE ON bucket_feed FOR EACH ROW
  WHEN (NEW.derived_from IS NOT NULL OR OLD.derived_from IS NOT NULL) EXECUTE FUNCTION bucket_feed_is_derived();

REVOKE EXECUTE ON FUNCTION bucket_outdates(), gap_outdates(), bucket_outdate(int, smallint, tstzmultirange) FROM PUBLIC;


----------------------------------------------------------------------------------------------------
-- BUDGET
----------------------------------------------------------------------------------------------------

-- One budget of requests for each exchange and address (or account, where the venue counts those), shared by all processes.

CREATE TABLE rate_budget (
  id             int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  exchange_id    int NOT NULL REFERENCES exchange ON DELETE CASCADE,
  account_id     int REFERENCES account ON DELETE CASCADE,
  address        text CHECK (address <> ''),
  configured     numeric NOT NULL CHECK (configured > 0),
  stated         numeric CHECK (stated > 0),
  capacity       numeric NOT NULL GENERATED ALWAYS AS (least(configured, stated)) STORED,
  order_share    numeric NOT NULL DEFAULT 0.1 CHECK (order_share BETWEEN 0 AND 0.9),
  tokens         numeric NOT NULL DEFAULT 0,
  refilled_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
  used           numeric NOT NULL DEFAULT 0,
  minute_ends    timestamptz NOT NULL DEFAULT date_trunc('minute', clock_timestamp()) + interval '1 min',
  blocked_at     timestamptz,
  blocked_until  timestamptz,
  why            text,
  CHECK (num_nonnulls(account_id, address) = 1)
) WITH (fillfactor = 20);
CREATE UNIQUE INDEX rate_budget_address ON rate_budget (exchange_id, address) WHERE account_id IS NULL;
CREATE UNIQUE INDEX rate_budget_account ON rate_budget (account_id) WHERE account_id IS NOT NULL;
CREATE INDEX rate_budget_exchange ON rate_budget (exchange_id);
COMMENT ON TABLE rate_budget IS 'What may still be asked of a venue: one row for each exchange and public address, or for each account where the venue counts those. Shared by all processes on all machines. Units are ccxt''s costs of requests.';
COMMENT ON COLUMN rate_budget.account_id IS 'The account, at a venue that counts what an account asks (Kraken, Bybit). NULL: the venue counts what an address asks.';
COMMENT ON COLUMN rate_budget.address IS 'A name for the public address that requests come from: TALLYDESK_ADDRESS of the machines behind it. NULL where account_id is set.';
COMMENT ON COLUMN rate_budget.configured IS 'Units a minute by ccxt''s rateLimit of this venue, or by the one in the exchange''s options.';
COMMENT ON COLUMN rate_budget.stated IS 'Units a minute as the venue itself says. NULL: it has not said.';
COMMENT ON COLUMN rate_budget.capacity IS 'Units a minute: the lesser of the two.';
COMMENT ON COLUMN rate_budget.order_share IS 'The part of the capacity that only traders may use: candles and other reads stop there. Yours to change.';
COMMENT ON COLUMN rate_budget.tokens IS 'Units that reads may take at refilled_at; below zero after a request that cost more.';
COMMENT ON COLUMN rate_budget.refilled_at IS 'When tokens was last worked out.';
COMMENT ON COLUMN rate_budget.used IS 'Units used in the minute that ends at minute_ends: the venue''s own count where it tells one (other programs at the same address included), else ours.';
COMMENT ON COLUMN rate_budget.minute_ends IS 'When the venue begins to count anew, by the database''s clock.';
COMMENT ON COLUMN rate_budget.blocked_at IS 'When blocked_until was set.';
COMMENT ON COLUMN rate_budget.blocked_until IS 'Until then no process asks the venue anything: set by an answer 429 or 418, or by hand. NULL, or past: nothing holds it.';
COMMENT ON COLUMN rate_budget.why IS 'What blocked_until was set for.';

CREATE FUNCTION rate_budget_blocked() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.blocked_until IS NOT NULL THEN
    NEW.blocked_at := clock_timestamp();
  END IF;
  PERFORM pg_notify('rate_budget', NEW.id::text);
  RETURN NEW;
END $$;
COMMENT ON FUNCTION rate_budget_blocked() IS 'Tells every process that a venue is blocked, or free again.';
CREATE TRIGGER blocked BEFORE UPDATE OF blocked_until ON rate_budget FOR EACH ROW
  WHEN (NEW.blocked_until IS DISTINCT FROM OLD.blocked_until) EXECUTE FUNCTION rate_budget_blocked();

CREATE VIEW budget AS
SELECT e.name AS exchange, a.name AS account, b.address, round(CASE WHEN b.minute_ends > clock_timestamp() THEN b.used ELSE 0 END, 1) AS used,
       round(b.capacity, 1) AS capacity, round(b.capacity * b.order_share, 1) AS for_orders,
       CASE WHEN b.blocked_until > clock_timestamp() THEN b.blocked_until END AS blocked_until,
       CASE WHEN b.blocked_until > clock_timestamp() THEN b.why END AS why
  FROM rate_budget b JOIN exchange e ON e.id = b.exchange_id LEFT JOIN account a ON a.id = b.account_id;
COMMENT ON VIEW budget IS 'What each venue lets us ask, and what was asked of it in this minute, in ccxt''s units.';
COMMENT ON COLUMN budget.exchange IS 'The exchange by our name for it.';
COMMENT ON COLUMN budget.address IS 'The name of the public address that is counted; NULL: the account is.';
COMMENT ON COLUMN budget.why IS 'What it is blocked for.';
COMMENT ON COLUMN budget.used IS 'Used in this minute by the venue''s own count where it tells one, else by ours.';
COMMENT ON COLUMN budget.capacity IS 'What the venue allows in a minute.';
COMMENT ON COLUMN budget.for_orders IS 'The part of it that is kept for orders.';
COMMENT ON COLUMN budget.blocked_until IS 'Until then nothing is asked; NULL: nothing holds it.';

GRANT SELECT ON rate_budget, budget TO tallydesk_reader, tallydesk_user;
GRANT UPDATE (order_share, blocked_until, why) ON rate_budget TO tallydesk_user;


----------------------------------------------------------------------------------------------------
-- CONVERSION
----------------------------------------------------------------------------------------------------

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


----------------------------------------------------------------------------------------------------
-- MEND
----------------------------------------------------------------------------------------------------

-- One row that cannot be read held up all feeds of its exchange: whoever claims several reads it, too.

UPDATE bucket_feed SET keep = NULL WHERE keep > interval '1000 years';
ALTER TABLE bucket_feed
  ADD CONSTRAINT keep_is_at_most_1000_years CHECK (keep <= interval '1000 years'),
  ADD CONSTRAINT listed_at_is_between_the_years_1970_and_9000 CHECK (listed_at BETWEEN '1970-01-01 00:00+00' AND '9000-01-01 00:00+00'),
  ADD CONSTRAINT reachable_from_is_between_the_years_1970_and_9000 CHECK (reachable_from BETWEEN '1970-01-01 00:00+00' AND '9000-01-01 00:00+00'),
  ADD CONSTRAINT newest_is_between_the_years_1970_and_9001 CHECK (newest BETWEEN '1970-01-01 00:00+00' AND '9001-01-01 00:00+00'),
  ADD CONSTRAINT covered_is_between_the_years_1900_and_9001 CHECK (covered <@ '{[1900-01-01 00:00+00, 9001-01-01 00:00+00)}'::tstzmultirange),
  ADD CONSTRAINT quiet_is_between_the_years_1900_and_9999 CHECK (quiet <@ '{[1900-01-01 00:00+00, 9999-12-31 00:00+00)}'::tstzmultirange),
  DROP CONSTRAINT derived_from_divides_the_timeframe,
  ADD CONSTRAINT derived_from_divides_the_timeframe CHECK (CASE WHEN derived_from <= 0 THEN false ELSE
    timeframe_id > derived_from AND CASE WHEN timeframe_id = 32767 THEN 1440 ELSE timeframe_id END % derived_from = 0 END);

CREATE TRIGGER newest_follows AFTER UPDATE ON bucket_feed FOR EACH ROW WHEN (OLD.newest IS DISTINCT FROM NEW.newest)
  EXECUTE FUNCTION only_from_processes('newest follows the candles');

-- Fires after follow_market, which makes the feeds of a market that trades again due: those that are derived are not fetched.
CREATE FUNCTION bucket_feed_derived_is_never_due() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.due_at := '9000-01-01Z';
  NEW.backfill_at := NULL;
  RETURN NEW;
END $$;
COMMENT ON FUNCTION bucket_feed_derived_is_never_due IS 'Trigger: the venue is never asked for what is derived.';
CREATE TRIGGER z_derived_is_never_due BEFORE INSERT OR UPDATE ON bucket_feed FOR EACH ROW WHEN (NEW.derived_from IS NOT NULL)
  EXECUTE FUNCTION bucket_feed_derived_is_never_due();
UPDATE bucket_feed SET due_at = '9000-01-01Z' WHERE derived_from IS NOT NULL;

-- One rate that a person fixes must not make the product of several, or of a balance, a number that cannot be told.
UPDATE asset_rate SET rate = least(1e30, greatest(1e-30, rate)) WHERE source = 'fixed' AND rate NOT BETWEEN 1e-30 AND 1e30;
ALTER TABLE asset_rate ADD CONSTRAINT rate_is_within_1e_minus_30_and_1e30 CHECK (rate BETWEEN 1e-30 AND 1e30 OR source = 'market');


----------------------------------------------------------------------------------------------------
-- OFFLINE
----------------------------------------------------------------------------------------------------

-- An exchange of files: markets whose candles are imported, at a venue that nobody asks anything.

ALTER TABLE exchange ADD COLUMN offline boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN exchange.offline IS 'No venue is asked: its candles come from files, its markets from tallydesk market add. It has no accounts, and nothing of it is fetched.';

CREATE FUNCTION offline_has_no_accounts() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
  exchange_ text;
BEGIN
  SELECT name INTO exchange_ FROM exchange WHERE id = NEW.exchange_id AND offline;
  IF FOUND THEN
    RAISE EXCEPTION 'account %: exchange % is offline (its candles come from files): no venue can be reached for it', NEW.name, exchange_
      USING ERRCODE = 'restrict_violation', HINT = 'UPDATE exchange SET offline = false, if there is a venue after all; else give the account an exchange of another name.';
  END IF;
  RETURN NEW;
END $$;
COMMENT ON FUNCTION offline_has_no_accounts IS 'Trigger: an account needs a venue.';
CREATE TRIGGER offline BEFORE INSERT ON account FOR EACH ROW EXECUTE FUNCTION offline_has_no_accounts();

CREATE FUNCTION offline_is_not_fetched() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
  market_ text;
BEGIN
  SELECT e.name || ':' || m.symbol INTO market_ FROM market m JOIN exchange e ON e.id = m.exchange_id WHERE m.id = NEW.market_id AND e.offline;
  IF FOUND THEN
    RAISE EXCEPTION 'feed of %: its exchange is offline: no venue is asked, its candles come from files (tallydesk bucket import)', market_
      USING ERRCODE = 'restrict_violation', HINT = 'What is derived from imported candles may be on: tallydesk bucket derive.';
  END IF;
  RETURN NEW;
END $$;
COMMENT ON FUNCTION offline_is_not_fetched IS 'Trigger: a feed that is fetched needs a venue.';
CREATE TRIGGER offline BEFORE INSERT OR UPDATE OF enabled, derived_from, market_id ON bucket_feed FOR EACH ROW WHEN (NEW.enabled AND NEW.derived_from IS NULL)
  EXECUTE FUNCTION offline_is_not_fetched();

CREATE FUNCTION exchange_goes_offline() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
  IF EXISTS (SELECT FROM account WHERE exchange_id = NEW.id) THEN
    RAISE EXCEPTION 'exchange % cannot be offline: it has accounts', NEW.name USING ERRCODE = 'restrict_violation';
  ELSIF EXISTS (SELECT FROM bucket_feed WHERE exchange_id = NEW.id AND enabled AND derived_from IS NULL) THEN
    RAISE EXCEPTION 'exchange % cannot be offline: feeds of it are on', NEW.name
      USING ERRCODE = 'restrict_violation', HINT = format('tallydesk feed pause %s ''*''', NEW.name);
  END IF;
  RETURN NEW;
END $$;
COMMENT ON FUNCTION exchange_goes_offline IS 'Trigger: an exchange with accounts, or with feeds that are fetched, is not offline.';
CREATE TRIGGER offline BEFORE UPDATE ON exchange FOR EACH ROW WHEN (NEW.offline AND NOT OLD.offline) EXECUTE FUNCTION exchange_goes_offline();

-- A candle of the future, which somebody wrote, hides nothing: the lag is that of the newest candle that has closed.
CREATE OR REPLACE VIEW feeds AS
  SELECT e.name || ':' || m.symbol AS market, t.name AS timeframe, f.status::text AS status, f.enabled,
         coalesce(to_char(f.collect_since AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI'), 'listing') AS collect_since, f.keep,
         (SELECT b.time_close - t.span FROM bucket b WHERE b.market_id = f.market_id AND b.timeframe_id = f.timeframe_id
           ORDER BY b.time_close LIMIT 1) AS oldest,
         f.newest,
         CASE WHEN f.enabled AND NOT e.replay AND NOT e.offline THEN greatest(interval '0', clock_timestamp() - n.closed - t.span) END AS lag,
         CASE WHEN f.status = 'full' THEN 100.0
              WHEN w.start IS NULL OR w.stop <= w.start THEN 0.0
              ELSE least(99.9, round(100 * (SELECT coalesce(sum(extract(epoch FROM upper(r) - lower(r))), 0)
                                              FROM unnest(f.covered * tstzmultirange(tstzrange(w.start, w.stop))) r)
                                     / extract(epoch FROM w.stop - w.start), 1)) END AS progress,
         (SELECT count(*) FROM gap g WHERE g.market_id = f.market_id AND g.timeframe_id = f.timeframe_id) AS gaps,
         f.refused, f.last_error
    FROM bucket_feed f
    JOIN market m ON m.id = f.market_id
    JOIN exchange e ON e.id = m.exchange_id
    JOIN timeframe t ON t.id = f.timeframe_id
   CROSS JOIN LATERAL (SELECT CASE WHEN f.newest <= clock_timestamp() THEN f.newest
                                   ELSE (SELECT max(b.time_close) FROM bucket b WHERE b.market_id = f.market_id AND b.timeframe_id = f.timeframe_id
                                            AND b.time_close <= statement_timestamp()) END AS closed) n
   CROSS JOIN LATERAL (SELECT CASE WHEN e.replay OR NOT f.enabled THEN f.newest ELSE clock_timestamp() - t.span END AS stop) s
   CROSS JOIN LATERAL (SELECT greatest(coalesce(f.collect_since, f.listed_at), f.reachable_from, s.stop - f.keep) AS start, s.stop
                        WHERE coalesce(f.collect_since, f.listed_at) IS NOT NULL
                       UNION ALL SELECT NULL, s.stop WHERE coalesce(f.collect_since, f.listed_at) IS NULL) w;
COMMENT ON COLUMN feeds.lag IS 'How long a newer candle could have been there already; NULL: not kept up to date, offline, or replayed on another clock.';

-- Where the newest candles go, what the feed was waiting for was told by them. Fires before follow_market, which has the last word.
CREATE FUNCTION bucket_feed_lost_its_newest() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.due_at := clock_timestamp();
  RETURN NEW;
END $$;
COMMENT ON FUNCTION bucket_feed_lost_its_newest IS 'Trigger: a feed whose newest candles were deleted is due.';
CREATE TRIGGER a_feed_that_lost_its_newest_is_due BEFORE UPDATE OF newest ON bucket_feed FOR EACH ROW
  WHEN (NEW.derived_from IS NULL AND OLD.newest > coalesce(NEW.newest, '-infinity')) EXECUTE FUNCTION bucket_feed_lost_its_newest();

-- Another unit: until the job has looked for its rates, everything that needs one says so.
CREATE FUNCTION setting_unit_follow() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  process_ text := process();
BEGIN
  PERFORM set_config('tallydesk.process', 'trigger', true);
  INSERT INTO asset_rate (asset_id, unit_id, source, reason)
    SELECT n.asset_id, u.id, 'market', 'being found: setting.unit has changed, and no job has looked for rates since'
      FROM asset u CROSS JOIN (SELECT asset_id FROM account_balance WHERE (total, free, used) <> (0, 0, 0)
                               UNION SELECT asset_id FROM balance WHERE total <> 0
                               UNION SELECT unit_id FROM strategy) n
     WHERE u.code = NEW.unit AND n.asset_id <> u.id
    ON CONFLICT (asset_id, unit_id) DO NOTHING;
  PERFORM set_config('tallydesk.process', process_, true);
  RETURN NULL;
END $$;
COMMENT ON FUNCTION setting_unit_follow IS 'Trigger: rates to another unit are being found.';
REVOKE EXECUTE ON FUNCTION setting_unit_follow() FROM PUBLIC;
CREATE TRIGGER setting_unit_follow AFTER UPDATE ON setting FOR EACH ROW WHEN (OLD.unit <> NEW.unit) EXECUTE FUNCTION setting_unit_follow();

CREATE OR REPLACE VIEW account_total AS
  SELECT x.mode, x.account, x.exchange, round(sum(x.value), 8) AS value, min(x.unit) AS unit, count(x.asset) AS assets,
         array_agg(DISTINCT x.asset ORDER BY x.asset) FILTER (WHERE x.rate_state = 'missing') AS unpriced,
         array_agg(DISTINCT x.asset ORDER BY x.asset) FILTER (WHERE x.rate_state = 'stale') AS old_rates, max(x.rate_age) AS rate_age,
         min(x.read_at) AS read_at, CASE WHEN min(x.read_at) IS NOT NULL THEN date_trunc('seconds', greatest(statement_timestamp() - min(x.read_at), '0')) END AS age,
         bool_or(x.stale) AS stale, nullif(concat_ws('; ', string_agg(DISTINCT x.note, '; '), string_agg(DISTINCT x.missing, '; ' ORDER BY x.missing)), '') AS note
    FROM (SELECT c.mode::text AS mode, c.name AS account, e.name AS exchange, s.unit, v.asset, v.rate_state, v.rate_age, d.read_at,
                 CASE WHEN v.asset IS NOT NULL THEN v.value WHEN d.read_at IS NOT NULL THEN 0 END AS value, k.stale,
                 CASE WHEN k.stale THEN format('%s: %s', c.name, CASE WHEN d.failed_at IS NOT NULL THEN 'could not be read: ' || d.error WHEN d.read_at IS NULL THEN 'was never read'
                   ELSE 'was not read lately' END) END AS note,
                 CASE WHEN v.rate_state = 'missing' THEN format('no rate of %s: %s', v.asset, coalesce(left(w.reason, 200), 'no job has looked for it yet')) END AS missing
            FROM account c
            JOIN exchange e ON e.id = c.exchange_id
            CROSS JOIN setting s
            LEFT JOIN account_read d ON d.account_id = c.id
            LEFT JOIN account_value v ON v.account = c.name
            LEFT JOIN asset a ON a.code = v.asset
            LEFT JOIN asset u ON u.code = s.unit
            LEFT JOIN asset_rate w ON w.asset_id = a.id AND w.unit_id = u.id
            CROSS JOIN LATERAL (SELECT d.failed_at IS NOT NULL OR d.read_at IS NULL OR d.read_at < statement_timestamp() - s.balance_fresh AS stale) k) x
   GROUP BY GROUPING SETS ((x.mode, x.account, x.exchange), (x.mode));
COMMENT ON COLUMN account_total.note IS 'Which account is stale, and which asset has no rate; and why.';


----------------------------------------------------------------------------------------------------
-- ALIGNED
----------------------------------------------------------------------------------------------------

-- A candle that opens elsewhere than its timeframe allows would fill a gap that it does not fill, and no file with it could be read again.

-- Exact to the microsecond, and without numeric: this is tried for every row of a COPY. Up to an hour a candle closes on multiples of its length,
-- above on any whole hour (venues have days and weeks of their own), a month on the first at midnight UTC.
ALTER TABLE bucket ADD CONSTRAINT time_close_is_where_a_candle_of_the_timeframe_closes CHECK (
  (date_part('epoch', time_close) * 1000000)::bigint % (60000000::bigint * least(timeframe_id, 60)) = 0
  AND (timeframe_id < 32767 OR date_trunc('month', time_close AT TIME ZONE 'UTC') = time_close AT TIME ZONE 'UTC')) NOT VALID;
-- What a person wrote before this is theirs to delete: it stops nobody from going on.
DO $$ BEGIN
  ALTER TABLE bucket VALIDATE CONSTRAINT time_close_is_where_a_candle_of_the_timeframe_closes;
EXCEPTION WHEN check_violation THEN
  RAISE WARNING 'there are candles whose time_close is where none of their timeframe closes: they stay, and are not derived from';
END $$;

COMMENT ON COLUMN bucket_feed.keep IS 'How long candles are kept: older ones are deleted within a minute, and not fetched. NULL: for ever.';

-- What is derived begins and ends where its source does, and what is missing there is missing for the reasons of the source.
CREATE OR REPLACE VIEW bucket_gap AS
  SELECT e.name || ':' || m.symbol AS market, t.name AS timeframe, g.gap_from, g.gap_to, g.missing, g.kind, g.checks, g.found_at
    FROM (
      SELECT g.market_id, g.timeframe_id, g.gap_from, g.gap_to, g.missing, g.checks, g.found_at,
             coalesce(g.verdict, CASE WHEN f.covered @> tstzrange(g.gap_from, g.gap_to) THEN 'outage' ELSE 'not_fetched' END::gap_kind) AS kind
        FROM gap g JOIN bucket_feed f USING (market_id, timeframe_id)
      UNION ALL
      SELECT f.market_id, f.timeframe_id, r.gap_from, r.gap_to, candles_between(r.gap_from, r.gap_to, t.span), 0, NULL,
             CASE WHEN f.derived_from IS NULL THEN r.kind ELSE (
               SELECT CASE WHEN coalesce(bool_or(y.verdict IS NULL AND NOT o.covered @> tstzrange(y.gap_from, y.gap_to)), true) THEN 'not_fetched'
                           WHEN bool_or(y.verdict IS DISTINCT FROM 'no_trades') THEN 'outage' ELSE 'no_trades' END::gap_kind
                 FROM gap y WHERE y.market_id = f.market_id AND y.timeframe_id = f.derived_from AND y.gap_from < r.gap_to AND y.gap_to > r.gap_from) END
        FROM bucket_feed f
        LEFT JOIN bucket_feed o ON o.market_id = f.market_id AND o.timeframe_id = f.derived_from
        JOIN timeframe t ON t.id = f.timeframe_id
        JOIN market m ON m.id = f.market_id
        JOIN exchange e ON e.id = m.exchange_id
        -- What closed candles there can be: on a replay its own clock counts, which is not here.
        CROSS JOIN LATERAL (
          SELECT (SELECT min(b.time_close) FROM bucket b WHERE b.market_id = f.market_id AND b.timeframe_id = f.timeframe_id) AS first,
                 CASE WHEN f.derived_from IS NULL THEN coalesce(f.collect_since, lower(f.covered))
                      ELSE (SELECT candle_time(candle_start(greatest(f.collect_since, candle_time(b.time_close, -1, b.span)) - interval '1 us', t.span), 1, t.span)
                              FROM (SELECT b.time_close, y.span FROM bucket b JOIN timeframe y ON y.id = b.timeframe_id
                                     WHERE b.market_id = f.market_id AND b.timeframe_id = f.derived_from ORDER BY b.time_close LIMIT 1) b) END AS since) s
        CROSS JOIN LATERAL (
          SELECT CASE WHEN f.derived_from IS NOT NULL THEN candle_start(greatest(o.newest, upper(o.quiet)), t.span)
                      WHEN e.replay THEN coalesce(f.newest, s.since)
                      WHEN t.span = '1 month' THEN date_trunc('month', now(), 'UTC')
                      ELSE candle_time(coalesce(f.newest, s.since), candles_between(coalesce(f.newest, s.since), now(), t.span), t.span) END AS last) h
        CROSS JOIN LATERAL (
          SELECT lower(p) AS gap_from, upper(p) AS gap_to, 'not_fetched'::gap_kind AS kind
            FROM unnest(tstzmultirange(tstzrange(s.since, greatest(s.since, coalesce(candle_time(s.first, -1, t.span), h.last)))) - f.covered) p
          UNION ALL
          SELECT lower(p), upper(p), 'before_listing'
            FROM unnest(tstzmultirange(tstzrange(s.since, greatest(s.since, coalesce(candle_time(s.first, -1, t.span), h.last)))) * f.covered) p
          UNION ALL
          SELECT lower(p), upper(p), 'not_fetched' FROM unnest(tstzmultirange(tstzrange(f.newest, greatest(f.newest, h.last))) - f.covered) p
           WHERE s.first IS NOT NULL
          UNION ALL
          SELECT lower(p), upper(p), 'outage' FROM unnest(tstzmultirange(tstzrange(f.newest, greatest(f.newest, h.last))) * f.covered) p
           WHERE s.first IS NOT NULL) r
       WHERE f.enabled AND s.since IS NOT NULL AND candles_between(r.gap_from, r.gap_to, t.span) > 0) g
    JOIN timeframe t ON t.id = g.timeframe_id
    JOIN market m ON m.id = g.market_id
    JOIN exchange e ON e.id = m.exchange_id;
CREATE OR REPLACE VIEW feeds AS
  SELECT e.name || ':' || m.symbol AS market, t.name AS timeframe, f.status::text AS status, f.enabled,
         coalesce(to_char(f.collect_since AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI'), 'listing') AS collect_since, f.keep,
         (SELECT b.time_close - t.span FROM bucket b WHERE b.market_id = f.market_id AND b.timeframe_id = f.timeframe_id
           ORDER BY b.time_close LIMIT 1) AS oldest,
         f.newest,
         CASE WHEN f.enabled AND f.derived_from IS NOT NULL THEN greatest(interval '0', s.stop - f.newest)
              WHEN f.enabled AND NOT e.replay AND NOT e.offline THEN greatest(interval '0', clock_timestamp() - n.closed - t.span) END AS lag,
         CASE WHEN f.status = 'full' THEN 100.0
              WHEN w.start IS NULL OR w.stop <= w.start THEN 0.0
              ELSE least(99.9, round(100 * (SELECT coalesce(sum(extract(epoch FROM upper(r) - lower(r))), 0)
                                              FROM unnest(f.covered * tstzmultirange(tstzrange(w.start, w.stop))) r)
                                     / extract(epoch FROM w.stop - w.start), 1)) END AS progress,
         (SELECT count(*) FROM gap g WHERE g.market_id = f.market_id AND g.timeframe_id = f.timeframe_id) AS gaps,
         f.refused,
         coalesce(f.last_error, CASE WHEN f.enabled AND NOT e.replay AND f.collect_since > clock_timestamp()
                                     THEN 'collect_since is in the future: nothing is fetched until then' END) AS last_error
    FROM bucket_feed f
    JOIN market m ON m.id = f.market_id
    JOIN exchange e ON e.id = m.exchange_id
    JOIN timeframe t ON t.id = f.timeframe_id
    LEFT JOIN bucket_feed o ON o.market_id = f.market_id AND o.timeframe_id = f.derived_from
   CROSS JOIN LATERAL (SELECT CASE WHEN f.newest <= clock_timestamp() THEN f.newest
                                   ELSE (SELECT max(b.time_close) FROM bucket b WHERE b.market_id = f.market_id AND b.timeframe_id = f.timeframe_id
                                            AND b.time_close <= statement_timestamp()) END AS closed) n
   CROSS JOIN LATERAL (SELECT CASE WHEN f.enabled AND f.derived_from IS NOT NULL THEN candle_start(greatest(o.newest, upper(o.quiet)), t.span)
                            WHEN e.replay OR NOT f.enabled THEN f.newest ELSE clock_timestamp() - t.span END AS stop) s
   CROSS JOIN LATERAL (SELECT greatest(coalesce(f.collect_since, f.listed_at, lower(o.covered)), f.reachable_from, s.stop - f.keep) AS start, s.stop
                        WHERE coalesce(f.collect_since, f.listed_at, lower(o.covered)) IS NOT NULL
                       UNION ALL SELECT NULL, s.stop WHERE coalesce(f.collect_since, f.listed_at, lower(o.covered)) IS NULL) w;
COMMENT ON COLUMN bucket_gap.kind IS 'not_fetched: the venue was not asked about all of it; no_trades: the venue confirmed that nobody traded; outage: it was asked and gave none; before_listing: the same before the first candle of all. Before the first and after the newest of a derived series: why smaller ones are missing.';
COMMENT ON COLUMN feeds.lag IS 'How long a newer candle could have been there already; NULL: not kept up to date, offline, or replayed on another clock. Of a derived feed: behind its source.';
COMMENT ON COLUMN feeds.last_error IS 'Why it could not be served the last time, or why nothing can come; NULL after a good one.';


----------------------------------------------------------------------------------------------------
-- DECISION
----------------------------------------------------------------------------------------------------

-- When a strategy decides, what it decided on and why, and what it remembers.

ALTER TABLE strategy ADD COLUMN schedule text NOT NULL DEFAULT 'bucket'
  CONSTRAINT schedule_is_bucket_minute_hour_or_day CHECK (schedule IN ('bucket', 'minute', 'hour', 'day'));
COMMENT ON COLUMN strategy.schedule IS 'At which closes it decides: bucket: at each; minute, hour, day: where one of these ends in UTC. Missed moments are made up for once, on the newest candle.';

CREATE FUNCTION strategy_schedule() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
  frame record;
BEGIN
  SELECT name, span INTO frame FROM timeframe
   WHERE id = NEW.timeframe_id AND span > CASE NEW.schedule WHEN 'minute' THEN interval '1 min' WHEN 'hour' THEN '1 h' WHEN 'day' THEN '1 day' END;
  IF FOUND THEN
    RAISE EXCEPTION 'strategy %: schedule "%" is finer than its timeframe %; allowed are %', NEW.name, NEW.schedule, frame.name,
      concat_ws(', ', 'bucket', CASE WHEN frame.span <= '1 h' THEN 'hour' END, CASE WHEN frame.span <= '1 day' THEN 'day' END) USING ERRCODE = 'check_violation';
  END IF;
  RETURN NEW;
END $$;
COMMENT ON FUNCTION strategy_schedule IS 'Trigger: nothing is decided more often than a candle closes.';
CREATE TRIGGER strategy_schedule BEFORE INSERT OR UPDATE OF schedule, timeframe_id ON strategy FOR EACH ROW
  WHEN (NEW.schedule <> 'bucket') EXECUTE FUNCTION strategy_schedule();

CREATE FUNCTION last_scheduled(schedule text, moment timestamptz) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE schedule WHEN 'bucket' THEN moment ELSE date_trunc(schedule, moment AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' END $$;
COMMENT ON FUNCTION last_scheduled IS 'The last moment of a schedule that is not after this one.';

-- One that never decided begins at a moment of its schedule, like a backtest, and not at whatever time it was added.
CREATE FUNCTION decision_due(schedule text, decided timestamptz, newest timestamptz) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
  SELECT newest > coalesce(decided, '-infinity')
     AND CASE WHEN decided IS NULL THEN last_scheduled(schedule, newest) = newest ELSE last_scheduled(schedule, newest) > decided END $$;
COMMENT ON FUNCTION decision_due IS 'Whether a moment of the schedule lies after the candle that was decided on last, up to the newest one.';

CREATE TYPE decision_action AS ENUM ('buy', 'sell', 'orders', 'none', 'waits', 'passed', 'stopped');

CREATE TABLE decision (
  strategy_id   int NOT NULL REFERENCES strategy,
  bucket_time   timestamptz NOT NULL,
  decided_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
  market_id     int NOT NULL REFERENCES market,
  timeframe_id  smallint NOT NULL REFERENCES timeframe,
  action        decision_action NOT NULL,
  signal        float8 CONSTRAINT signal_is_from_minus_1_to_1 CHECK (signal BETWEEN -1 AND 1),
  previous      float8 CONSTRAINT previous_is_from_minus_1_to_1 CHECK (previous BETWEEN -1 AND 1),
  inputs_hash   bytea CONSTRAINT inputs_hash_has_16_bytes CHECK (octet_length(inputs_hash) = 16),
  reason        text NOT NULL CONSTRAINT reason_has_1_to_2000_characters CHECK (char_length(reason) BETWEEN 1 AND 2000),
  awaited_market_id     int REFERENCES market,
  awaited_timeframe_id  smallint REFERENCES timeframe,
  PRIMARY KEY (strategy_id, bucket_time),
  CONSTRAINT awaited_is_a_market_and_a_timeframe CHECK (num_nonnulls(awaited_market_id, awaited_timeframe_id) IN (0, 2)),
  CONSTRAINT what_was_decided_has_an_inputs_hash CHECK (action NOT IN ('buy', 'sell', 'orders', 'none') OR inputs_hash IS NOT NULL)
);
CREATE INDEX decision_awaited ON decision (awaited_market_id, awaited_timeframe_id) WHERE awaited_market_id IS NOT NULL;
CREATE INDEX decision_age ON decision (decided_at) WHERE action NOT IN ('buy', 'sell', 'orders');
COMMENT ON TABLE decision IS 'What each strategy decided at each candle, and why; written with its orders in one transaction. People read the view decisions.';
COMMENT ON COLUMN decision.bucket_time IS 'The close of the candle that was decided on.';
COMMENT ON COLUMN decision.decided_at IS 'When; of one that waits: since when, for this reason.';
COMMENT ON COLUMN decision.market_id IS 'The market of the candle.';
COMMENT ON COLUMN decision.timeframe_id IS 'The timeframe of the candle.';
COMMENT ON COLUMN decision.action IS 'buy, sell: one order; orders: orders placed or taken back by on_bucket; none: it wanted none; waits: not decided yet, looked at again; passed: the candle was let go by; stopped: its class failed.';
COMMENT ON COLUMN decision.signal IS 'The target exposure that it wanted, -1 to 1. NULL: nothing was decided, or on_bucket gave no target.';
COMMENT ON COLUMN decision.previous IS 'The target at the scheduled candle before. NULL: unknown, so that no cross is fresh.';
COMMENT ON COLUMN decision.inputs_hash IS 'blake2b, 16 bytes, of all that it was decided on but money: class, source of its module, params, what it remembered, and of each series of candles market, timeframe, times of close and OHLCV. The same hash: the same inputs. NULL: no candles were read.';
COMMENT ON COLUMN decision.reason IS 'Why so, in words.';
COMMENT ON COLUMN decision.awaited_market_id IS 'The market of an input whose candle is not there yet: when it comes, this candle is looked at again.';
COMMENT ON COLUMN decision.awaited_timeframe_id IS 'The timeframe of that input.';

CREATE TRIGGER written BEFORE INSERT OR UPDATE OR DELETE ON decision FOR EACH STATEMENT
  EXECUTE FUNCTION only_from_processes('it is what a run of the strategy decided');
CREATE TRIGGER fixed BEFORE UPDATE ON decision FOR EACH ROW
  WHEN (OLD.action <> 'waits' OR (NEW.strategy_id, NEW.bucket_time) <> (OLD.strategy_id, OLD.bucket_time))
  EXECUTE FUNCTION refuse('a candle is decided once; only one that waits may still change');
CREATE TRIGGER kept BEFORE TRUNCATE ON decision FOR EACH STATEMENT EXECUTE FUNCTION refuse('orders come from here; old decisions without one go by themselves');

CREATE FUNCTION decision_kept() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
  IF EXISTS (SELECT FROM "order" o WHERE o.strategy_id = OLD.strategy_id AND o.bucket_time = OLD.bucket_time) THEN
    RAISE EXCEPTION 'DELETE on "decision" is refused: the orders of strategy % at % come from it', OLD.strategy_id, OLD.bucket_time USING ERRCODE = 'restrict_violation';
  END IF;
  RETURN OLD;
END $$;
COMMENT ON FUNCTION decision_kept IS 'Trigger: a decision stays for as long as its orders.';
REVOKE EXECUTE ON FUNCTION decision_kept() FROM PUBLIC;
CREATE TRIGGER decision_kept BEFORE DELETE ON decision FOR EACH ROW EXECUTE FUNCTION decision_kept();

ALTER TABLE setting ADD COLUMN decision_keep interval NOT NULL DEFAULT '30 days'
  CONSTRAINT decision_keep_is_between_an_hour_and_1000_years CHECK (decision_keep BETWEEN '1 h' AND '1000 years');
COMMENT ON COLUMN setting.decision_keep IS 'How long decisions that made no order are kept; those that made one stay.';

-- Not in the row of the strategy: that is locked, compared and shown all the time, and people write to it. json and not jsonb: that
-- would sort keys and make 1e16 a whole number, so a strategy would go on with something else than what it left.
CREATE TABLE strategy_state (
  strategy_id  int PRIMARY KEY REFERENCES strategy,
  class        text NOT NULL,
  bucket_time  timestamptz NOT NULL,
  target       float8 CONSTRAINT target_is_from_minus_1_to_1 CHECK (target BETWEEN -1 AND 1),
  state        json NOT NULL CONSTRAINT state_is_an_object CHECK (json_typeof(state) = 'object')
    CONSTRAINT state_has_at_most_100000_bytes CHECK (octet_length(state::text) <= 100000)
) WITH (fillfactor = 70);
COMMENT ON TABLE strategy_state IS 'What a strategy remembers from candle to candle (context.state); written with its decision in one transaction. DELETE its row: it begins anew.';
COMMENT ON COLUMN strategy_state.class IS 'Whose memory it is: another class begins anew.';
COMMENT ON COLUMN strategy_state.bucket_time IS 'The close of the candle with whose decision it was written.';
COMMENT ON COLUMN strategy_state.target IS 'The last target that it gave; the next one is a fresh cross if this is 0 or less. NULL: none yet, or a gap came after it.';
COMMENT ON COLUMN strategy_state.state IS 'A JSON object of at most 100000 bytes, as the class left it.';
CREATE TRIGGER written BEFORE INSERT OR UPDATE ON strategy_state FOR EACH STATEMENT
  EXECUTE FUNCTION only_from_processes('a run of the strategy writes it; to begin anew: DELETE it');

-- A strategy that is called at each candle may place several orders at one.
ALTER TABLE "order" ADD COLUMN bucket_part smallint NOT NULL DEFAULT 1 CONSTRAINT bucket_part_is_between_1_and_100 CHECK (bucket_part BETWEEN 1 AND 100);
COMMENT ON COLUMN "order".bucket_part IS 'Which of the orders that its strategy''s decision made at this candle, from 1. Those of people are 1.';
COMMENT ON COLUMN "order".bucket_time IS 'The close of the candle that it answers; each part of a strategy''s decision there is one order at most.';
CREATE TRIGGER bucket_part_fixed BEFORE UPDATE OF bucket_part ON "order" FOR EACH ROW WHEN (OLD.bucket_part <> NEW.bucket_part)
  EXECUTE FUNCTION refuse('what was asked is fixed once it is queued');
DROP INDEX one_order_per_strategy_and_candle;
CREATE UNIQUE INDEX one_order_per_strategy_and_candle ON "order" (strategy_id, bucket_time, bucket_part) WHERE bucket_time IS NOT NULL;

CREATE VIEW decisions AS
  SELECT s.name AS strategy, e.name || ':' || m.symbol AS market, t.name AS timeframe, d.bucket_time, d.decided_at, d.action::text AS action, d.reason,
         d.signal, d.previous, o.orders, encode(d.inputs_hash, 'hex') AS inputs_hash
    FROM decision d
    JOIN strategy s ON s.id = d.strategy_id
    JOIN market m ON m.id = d.market_id
    JOIN exchange e ON e.id = m.exchange_id
    JOIN timeframe t ON t.id = d.timeframe_id
    LEFT JOIN LATERAL (SELECT array_agg(id ORDER BY id) AS orders FROM "order" WHERE strategy_id = d.strategy_id AND bucket_time = d.bucket_time) o ON true;
COMMENT ON VIEW decisions IS 'What each strategy decided at each candle, and why it did nothing. Kept for setting.decision_keep, those with orders for ever.';
COMMENT ON COLUMN decisions.action IS 'buy, sell: one order; orders: orders placed or taken back by on_bucket; none: it wanted none; waits: not decided yet; passed: the candle was let go by; stopped: its class failed.';
COMMENT ON COLUMN decisions.orders IS 'The numbers of its orders. NULL: none.';
COMMENT ON COLUMN decisions.inputs_hash IS 'What it was decided on, in hexadecimal: see decision.inputs_hash.';
COMMENT ON COLUMN decisions.market IS 'The market of the candle.';
COMMENT ON COLUMN decisions.timeframe IS 'The timeframe of the candle.';
COMMENT ON COLUMN decisions.bucket_time IS 'The close of the candle that was decided on.';
COMMENT ON COLUMN decisions.decided_at IS 'When; of one that waits: since when, for this reason.';
COMMENT ON COLUMN decisions.signal IS 'The target exposure that it wanted, -1 to 1.';
COMMENT ON COLUMN decisions.previous IS 'The target at the scheduled candle before. NULL: unknown.';
COMMENT ON COLUMN decisions.reason IS 'Why so, in words.';

CREATE VIEW order_origin AS
  SELECT o.id AS order_id, s.name AS strategy, o.side::text AS side, o.type::text AS type, o.status::text AS status, o.created_at, o.bucket_time, o.bucket_part,
         d.action::text AS action, d.reason, d.signal, d.previous, d.decided_at, encode(d.inputs_hash, 'hex') AS inputs_hash,
         e.name || ':' || m.symbol AS market, t.name AS timeframe, b.open, b.high, b.low, b.close, b.volume
    FROM "order" o
    JOIN strategy s ON s.id = o.strategy_id
    LEFT JOIN decision d ON d.strategy_id = o.strategy_id AND d.bucket_time = o.bucket_time
    LEFT JOIN market m ON m.id = d.market_id
    LEFT JOIN exchange e ON e.id = m.exchange_id
    LEFT JOIN timeframe t ON t.id = d.timeframe_id
    LEFT JOIN bucket b ON b.market_id = d.market_id AND b.timeframe_id = d.timeframe_id AND b.time_close = d.bucket_time
   WHERE o.type IN ('market', 'limit');
COMMENT ON VIEW order_origin IS 'Where each order comes from: its decision, the candle, and what it was decided on. Decision empty: a person wrote the order.';
COMMENT ON COLUMN order_origin.order_id IS 'The number of the order; the rest of it is in orders.';
COMMENT ON COLUMN order_origin.side IS 'buy or sell.';
COMMENT ON COLUMN order_origin.type IS 'market or limit.';
COMMENT ON COLUMN order_origin.status IS 'Where the order is in its life.';
COMMENT ON COLUMN order_origin.bucket_time IS 'The close of the candle that it answers.';
COMMENT ON COLUMN order_origin.bucket_part IS 'Which of the orders of its decision.';
COMMENT ON COLUMN order_origin.action IS 'What was decided: buy, sell, or orders of on_bucket.';
COMMENT ON COLUMN order_origin.reason IS 'Why so decided, in words.';
COMMENT ON COLUMN order_origin.signal IS 'The target exposure that was wanted, -1 to 1.';
COMMENT ON COLUMN order_origin.previous IS 'The target at the scheduled candle before. NULL: unknown.';
COMMENT ON COLUMN order_origin.decided_at IS 'When it was decided.';
COMMENT ON COLUMN order_origin.inputs_hash IS 'What it was decided on, in hexadecimal: see decision.inputs_hash.';
COMMENT ON COLUMN order_origin.market IS 'The market of the candle.';
COMMENT ON COLUMN order_origin.timeframe IS 'The timeframe of the candle.';
COMMENT ON COLUMN order_origin.open IS 'Of the candle, as it is now. NULL: it is not kept any more.';
COMMENT ON COLUMN order_origin.high IS 'Of the candle.';
COMMENT ON COLUMN order_origin.low IS 'Of the candle.';
COMMENT ON COLUMN order_origin.close IS 'Of the candle.';
COMMENT ON COLUMN order_origin.volume IS 'Of the candle.';

GRANT SELECT ON decision, strategy_state, decisions, order_origin TO tallydesk_reader, tallydesk_user;
GRANT UPDATE (schedule) ON strategy TO tallydesk_user;
GRANT UPDATE (decision_keep) ON setting TO tallydesk_user;
GRANT DELETE ON strategy_state TO tallydesk_user;


----------------------------------------------------------------------------------------------------
-- BACKTEST
----------------------------------------------------------------------------------------------------

-- Backtests: what was run on which candles by which code, and what came out. No money is here: nothing of the books refers to it.

CREATE TABLE backtest_run (
  id                    int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  strategy              text CONSTRAINT strategy_has_no_spaces CHECK (strategy ~ '^\S+$'),
  class                 text NOT NULL CONSTRAINT class_is_module_colon_class CHECK (class ~ '^[A-Za-z_][\w.]*:[A-Za-z_]\w*$'),
  params                jsonb NOT NULL CONSTRAINT params_is_an_object CHECK (jsonb_typeof(params) = 'object'),
  schedule              text NOT NULL DEFAULT 'bucket',
  market_id             int REFERENCES market,
  timeframe_id          smallint NOT NULL REFERENCES timeframe,
  source                text NOT NULL,
  inputs                jsonb NOT NULL DEFAULT '{}' CONSTRAINT inputs_is_an_object CHECK (jsonb_typeof(inputs) = 'object'),
  asked_from            timestamptz,
  asked_to              timestamptz,
  used_from             timestamptz NOT NULL,
  used_to               timestamptz NOT NULL,
  candles               int NOT NULL CONSTRAINT there_is_at_least_one_candle CHECK (candles > 0),
  warm_up               int,
  digest                text NOT NULL CONSTRAINT digest_is_sha256_in_hex CHECK (digest ~ '^[0-9a-f]{64}$'),
  settings              jsonb NOT NULL CONSTRAINT settings_is_an_object CHECK (jsonb_typeof(settings) = 'object'),
  engine                text NOT NULL CONSTRAINT engine_is_array_bars_or_exact CHECK (engine IN ('array', 'bars', 'exact')),
  seed                  bigint NOT NULL DEFAULT 0,
  version               text NOT NULL,
  code                  text NOT NULL CONSTRAINT code_is_sha256_in_hex CHECK (code ~ '^[0-9a-f]{64}$'),
  deposits              numeric,
  withdrawals           numeric,
  equity                numeric,
  profit                numeric,
  realised              numeric,
  unrealised            numeric,
  fees                  numeric,
  return_percent        numeric,
  annual_return_percent numeric,
  buy_and_hold_percent  numeric,
  max_drawdown_percent  numeric,
  drawdown_days         numeric,
  sharpe                numeric,
  sortino               numeric,
  calmar                numeric,
  trades                int,
  win_percent           numeric,
  profit_factor         numeric,
  expectancy            numeric,
  exposure_percent      numeric,
  turnover              numeric,
  gaps                  int,
  missing_bars          int,
  fills_after_gaps      int,
  longest_gaps          jsonb NOT NULL DEFAULT '[]' CONSTRAINT longest_gaps_is_a_list CHECK (jsonb_typeof(longest_gaps) = 'array'),
  held                  jsonb CONSTRAINT held_is_an_object CHECK (jsonb_typeof(held) = 'object'),
  confidence            jsonb CONSTRAINT confidence_is_an_object CHECK (jsonb_typeof(confidence) = 'object'),
  refused               jsonb NOT NULL DEFAULT '{}' CONSTRAINT refused_is_an_object CHECK (jsonb_typeof(refused) = 'object'),
  started_at            timestamptz NOT NULL,
  finished_at           timestamptz NOT NULL DEFAULT clock_timestamp(),
  error                 text,
  CONSTRAINT a_run_has_either_a_result_or_an_error CHECK (
    (error IS NULL) = (num_nulls(deposits, withdrawals, equity, profit, realised, unrealised, fees, return_percent, max_drawdown_percent,
                                 drawdown_days, trades, exposure_percent, turnover, gaps, missing_bars, fills_after_gaps, warm_up) = 0)),
  CONSTRAINT used_from_is_before_used_to CHECK (used_from < used_to),
  CONSTRAINT it_is_finished_after_it_started CHECK (finished_at >= started_at)
);
CREATE INDEX backtest_run_market ON backtest_run (market_id);
COMMENT ON TABLE backtest_run IS 'One backtest: what it was of, all that is needed to do it again, and what came out. DELETE takes its trades and its equity with it.';
COMMENT ON COLUMN backtest_run.strategy IS 'The row of strategy that class, params, market and stake were taken from; NULL: the class was named.';
COMMENT ON COLUMN backtest_run.class IS 'The code that decided, as module:Class.';
COMMENT ON COLUMN backtest_run.params IS 'All of its parameters, those left at their defaults as well.';
COMMENT ON COLUMN backtest_run.schedule IS 'At which candles it decided: bucket (each), minute, hour, day.';
COMMENT ON COLUMN backtest_run.market_id IS 'NULL: candles of a file, of no market that is known here.';
COMMENT ON COLUMN backtest_run.source IS 'Where the candles came from: database, or the names of files.';
COMMENT ON COLUMN backtest_run.inputs IS 'Further candles, by name: market, timeframe, candles, first, last.';
COMMENT ON COLUMN backtest_run.asked_from IS 'From when on candles were asked for, as times of opening; NULL: from the first.';
COMMENT ON COLUMN backtest_run.asked_to IS 'Until when, as times of close; NULL: to the newest.';
COMMENT ON COLUMN backtest_run.used_from IS 'When the first candle opened.';
COMMENT ON COLUMN backtest_run.used_to IS 'When the last one closed.';
COMMENT ON COLUMN backtest_run.candles IS 'How many candles it ran over, those of the warm-up included.';
COMMENT ON COLUMN backtest_run.warm_up IS 'How many of the first candles its first decision needed; NULL: it could not be told.';
COMMENT ON COLUMN backtest_run.digest IS 'SHA-256 of the candles and of those of the inputs, so that a change of the data shows.';
COMMENT ON COLUMN backtest_run.settings IS 'Money, fees, slippage, steps and rules of a fill: every field of the settings of a backtest.';
COMMENT ON COLUMN backtest_run.engine IS 'array: targets as one column; bars: called at every candle; exact: through rows, trader, simulator and ledger.';
COMMENT ON COLUMN backtest_run.seed IS 'Of the bootstrap; nothing else is random.';
COMMENT ON COLUMN backtest_run.version IS 'Tallydesk''s version, and the beginning of the SHA-256 of its engines and kit.';
COMMENT ON COLUMN backtest_run.code IS 'SHA-256 of the module of the class, and of those of its base classes that are not Tallydesk''s.';
COMMENT ON COLUMN backtest_run.deposits IS 'Quote that was paid in.';
COMMENT ON COLUMN backtest_run.withdrawals IS 'Quote that was paid out.';
COMMENT ON COLUMN backtest_run.equity IS 'Cash and holdings at the last close, in quote; NULL, like all that follows: it failed.';
COMMENT ON COLUMN backtest_run.profit IS 'Equity minus deposits plus withdrawals.';
COMMENT ON COLUMN backtest_run.realised IS 'From what was sold, at average cost, after fees.';
COMMENT ON COLUMN backtest_run.unrealised IS 'What is held, at the last close, minus its cost.';
COMMENT ON COLUMN backtest_run.fees IS 'In quote, each at the price of its fill; part of realised and unrealised already.';
COMMENT ON COLUMN backtest_run.return_percent IS 'Time-weighted: money that came or went is no return.';
COMMENT ON COLUMN backtest_run.annual_return_percent IS 'What a year would return at this pace; NULL: shorter than a day.';
COMMENT ON COLUMN backtest_run.buy_and_hold_percent IS 'What buying everything once, at the start, would have returned; NULL: there was no candle to buy at.';
COMMENT ON COLUMN backtest_run.max_drawdown_percent IS 'The deepest fall from a peak, at closes.';
COMMENT ON COLUMN backtest_run.drawdown_days IS 'The longest time below a peak, recovered or not.';
COMMENT ON COLUMN backtest_run.sharpe IS 'Mean of the daily returns by their standard deviation, for a year; NULL: they do not vary.';
COMMENT ON COLUMN backtest_run.sortino IS 'The same by the deviation of the losses; NULL: there was no loss.';
COMMENT ON COLUMN backtest_run.calmar IS 'Annual return by the deepest fall; NULL: there was none.';
COMMENT ON COLUMN backtest_run.trades IS 'Sell orders that traded.';
COMMENT ON COLUMN backtest_run.win_percent IS 'How many of a hundred of them realised more than 0; NULL: none was sold.';
COMMENT ON COLUMN backtest_run.profit_factor IS 'All gains by all losses of sell orders; NULL: there was no loss.';
COMMENT ON COLUMN backtest_run.expectancy IS 'Quote that a sell order realised on average; NULL: none was sold.';
COMMENT ON COLUMN backtest_run.exposure_percent IS 'Share of the candles at whose close something was held.';
COMMENT ON COLUMN backtest_run.turnover IS 'What was bought and sold, in mean equities.';
COMMENT ON COLUMN backtest_run.gaps IS 'Over how many gaps of its candles it was computed.';
COMMENT ON COLUMN backtest_run.missing_bars IS 'How many candles are missing in them.';
COMMENT ON COLUMN backtest_run.fills_after_gaps IS 'How many fills came right after one: what the market did in between is unknown.';
COMMENT ON COLUMN backtest_run.longest_gaps IS 'The longest of them, at most 20, by time: from, to, missing.';
COMMENT ON COLUMN backtest_run.held IS 'What buying everything once, at the first chance, and holding made: return, year, falls and ratios as above. NULL: there was no candle to buy at.';
COMMENT ON COLUMN backtest_run.confidence IS 'Stationary bootstrap: level, draws, block, and the interval of return_percent, sharpe, max_drawdown_percent; loss_percent of the draws lost money. NULL: too few days.';
COMMENT ON COLUMN backtest_run.refused IS 'Orders that were decided and not filled: how many, by reason.';
COMMENT ON COLUMN backtest_run.started_at IS 'When the command began, candles not read yet.';
COMMENT ON COLUMN backtest_run.finished_at IS 'When it was stored.';
COMMENT ON COLUMN backtest_run.error IS 'Why it failed, with file and line; NULL: it did not.';

CREATE TABLE backtest_trade (
  run_id       int NOT NULL REFERENCES backtest_run ON DELETE CASCADE,
  number       int NOT NULL,
  decided_at   timestamptz NOT NULL,
  time_close   timestamptz NOT NULL,
  side         order_side NOT NULL,
  price        numeric NOT NULL CONSTRAINT price_is_above_zero CHECK (price > 0),
  quantity     numeric NOT NULL CONSTRAINT quantity_is_above_zero CHECK (quantity > 0),
  quote        numeric NOT NULL,
  fee          numeric NOT NULL,
  fee_in       text NOT NULL CONSTRAINT fee_in_is_base_or_quote CHECK (fee_in IN ('base', 'quote')),
  liquidity    liquidity NOT NULL,
  order_number int NOT NULL,
  realised     numeric CONSTRAINT only_sales_realise CHECK (realised IS NULL OR side = 'sell'),
  after_gap    boolean NOT NULL,
  PRIMARY KEY (run_id, number),
  CONSTRAINT it_is_not_filled_before_it_was_decided CHECK (time_close >= decided_at)
);
COMMENT ON TABLE backtest_trade IS 'A fill of a backtest.';
COMMENT ON COLUMN backtest_trade.number IS 'Counts the fills of a run, from 1, in the order in which they happened.';
COMMENT ON COLUMN backtest_trade.decided_at IS 'The close of the candle at which its order was decided.';
COMMENT ON COLUMN backtest_trade.time_close IS 'The close of the candle in which it was filled: at its open, as a rule.';
COMMENT ON COLUMN backtest_trade.side IS 'buy or sell.';
COMMENT ON COLUMN backtest_trade.price IS 'In quote.';
COMMENT ON COLUMN backtest_trade.quantity IS 'In base.';
COMMENT ON COLUMN backtest_trade.quote IS 'Price times quantity, before the fee.';
COMMENT ON COLUMN backtest_trade.fee IS 'In what fee_in says.';
COMMENT ON COLUMN backtest_trade.fee_in IS 'base: taken from what a buy brought.';
COMMENT ON COLUMN backtest_trade.liquidity IS 'maker: its order waited on the book.';
COMMENT ON COLUMN backtest_trade.order_number IS 'Fills of one order have the same.';
COMMENT ON COLUMN backtest_trade.realised IS 'Of a sale: quote after the fee minus its share of the cost, at average cost.';
COMMENT ON COLUMN backtest_trade.after_gap IS 'The candles before it are missing: where the market stood in between is unknown.';

CREATE TABLE backtest_equity (
  run_id           int NOT NULL REFERENCES backtest_run ON DELETE CASCADE,
  time             timestamptz NOT NULL,
  equity           numeric NOT NULL,
  cash             numeric NOT NULL,
  holding          numeric NOT NULL,
  price            numeric NOT NULL,
  unit_value       numeric NOT NULL,
  held_value       numeric,
  drawdown_percent numeric NOT NULL,
  PRIMARY KEY (run_id, time)
);
COMMENT ON TABLE backtest_equity IS 'What a backtest had, at some closes: of each of 400 equal parts of its candles the first, the last, the highest and lowest equity and price, and the deepest fall; every end of a month, every deposit and withdrawal.';
COMMENT ON COLUMN backtest_equity.time IS 'The close of the candle.';
COMMENT ON COLUMN backtest_equity.equity IS 'Cash and holding, in quote.';
COMMENT ON COLUMN backtest_equity.cash IS 'Quote.';
COMMENT ON COLUMN backtest_equity.holding IS 'Base.';
COMMENT ON COLUMN backtest_equity.price IS 'The close, in quote.';
COMMENT ON COLUMN backtest_equity.unit_value IS 'What one unit of the money that was paid in is worth: 1 at the start.';
COMMENT ON COLUMN backtest_equity.held_value IS 'The same, if everything had been bought once, at the first chance, and held; NULL: there was none.';
COMMENT ON COLUMN backtest_equity.drawdown_percent IS 'How far unit_value is below its highest so far.';

DO $$
DECLARE
  name text;
BEGIN
  FOREACH name IN ARRAY ARRAY['backtest_run', 'backtest_trade', 'backtest_equity'] LOOP
    EXECUTE format('CREATE TRIGGER computed BEFORE INSERT ON %I FOR EACH STATEMENT EXECUTE FUNCTION only_from_processes(%L)', name,
                   'it is what was computed; tallydesk backtest run computes');
    EXECUTE format('CREATE TRIGGER fixed BEFORE UPDATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION refuse(%L)', name,
                   'it is what was computed; run it again, and delete this one from backtest_run');
  END LOOP;
END $$;

CREATE VIEW backtest AS
  SELECT r.id, coalesce(r.strategy, r.class) AS name, r.params, coalesce(e.name || ':' || m.symbol, r.source) AS market, t.name AS timeframe,
         r.used_from, r.used_to, round(r.return_percent, 2) AS return_percent, round(r.buy_and_hold_percent, 2) AS buy_and_hold_percent,
         round(r.annual_return_percent, 2) AS annual_return_percent, round(r.max_drawdown_percent, 2) AS max_drawdown_percent,
         round(r.drawdown_days, 1) AS drawdown_days, round(r.sharpe, 2) AS sharpe,
         round((r.confidence->'sharpe'->>0)::numeric, 2) AS sharpe_low, round((r.confidence->'sharpe'->>1)::numeric, 2) AS sharpe_high,
         round(r.sortino, 2) AS sortino, round(r.calmar, 2) AS calmar, r.trades, round(r.win_percent, 1) AS win_percent,
         round(r.profit_factor, 2) AS profit_factor, trim_scale(round(r.expectancy, 8)) AS expectancy,
         round(r.exposure_percent, 1) AS exposure_percent, round(r.turnover, 1) AS turnover, trim_scale(round(r.fees, 8)) AS fees,
         trim_scale(round(r.profit, 8)) AS profit, trim_scale(round(r.equity, 8)) AS equity, r.gaps, r.missing_bars, r.fills_after_gaps,
         r.candles, r.engine, left(r.code, 12) AS code, left(r.digest, 12) AS digest, r.finished_at, r.error
    FROM backtest_run r
    JOIN timeframe t ON t.id = r.timeframe_id
    LEFT JOIN market m ON m.id = r.market_id
    LEFT JOIN exchange e ON e.id = m.exchange_id
   ORDER BY name, r.id;
COMMENT ON VIEW backtest IS 'Backtests to compare, one row each, by name; rounded for people. backtest_run has all of it.';
COMMENT ON COLUMN backtest.name IS 'That of the strategy''s row, else its class.';
COMMENT ON COLUMN backtest.params IS 'All of its parameters.';
COMMENT ON COLUMN backtest.market IS 'exchange:symbol; of candles of no market, the files that they came from.';
COMMENT ON COLUMN backtest.used_from IS 'When its first candle opened.';
COMMENT ON COLUMN backtest.used_to IS 'When its last candle closed.';
COMMENT ON COLUMN backtest.return_percent IS 'Time-weighted.';
COMMENT ON COLUMN backtest.buy_and_hold_percent IS 'What buying everything once, at the start, would have returned.';
COMMENT ON COLUMN backtest.annual_return_percent IS 'What a year would return at this pace.';
COMMENT ON COLUMN backtest.max_drawdown_percent IS 'The deepest fall from a peak.';
COMMENT ON COLUMN backtest.drawdown_days IS 'The longest time below a peak.';
COMMENT ON COLUMN backtest.sharpe IS 'Sharpe ratio, for a year.';
COMMENT ON COLUMN backtest.sharpe_low IS 'Where it lies by the bootstrap, at the least.';
COMMENT ON COLUMN backtest.sharpe_high IS 'Where it lies by the bootstrap, at the most.';
COMMENT ON COLUMN backtest.sortino IS 'Sortino ratio, for a year.';
COMMENT ON COLUMN backtest.calmar IS 'Annual return by the deepest fall.';
COMMENT ON COLUMN backtest.trades IS 'Sell orders that traded.';
COMMENT ON COLUMN backtest.win_percent IS 'How many of a hundred of them realised more than 0.';
COMMENT ON COLUMN backtest.profit_factor IS 'All gains by all losses.';
COMMENT ON COLUMN backtest.expectancy IS 'Quote that a sell order realised on average.';
COMMENT ON COLUMN backtest.exposure_percent IS 'Share of the candles at whose close something was held.';
COMMENT ON COLUMN backtest.turnover IS 'What was bought and sold, in mean equities.';
COMMENT ON COLUMN backtest.fees IS 'In quote.';
COMMENT ON COLUMN backtest.profit IS 'In quote.';
COMMENT ON COLUMN backtest.equity IS 'At the last close, in quote.';
COMMENT ON COLUMN backtest.gaps IS 'Over how many gaps of its candles it was computed.';
COMMENT ON COLUMN backtest.missing_bars IS 'How many candles are missing in them.';
COMMENT ON COLUMN backtest.fills_after_gaps IS 'How many fills came right after one.';
COMMENT ON COLUMN backtest.candles IS 'How many it ran over.';
COMMENT ON COLUMN backtest.engine IS 'array, bars or exact.';
COMMENT ON COLUMN backtest.code IS 'The same code has the same.';
COMMENT ON COLUMN backtest.digest IS 'The same candles have the same.';
COMMENT ON COLUMN backtest.finished_at IS 'When it was stored.';
COMMENT ON COLUMN backtest.error IS 'Why it failed; NULL: it did not.';

-- A candle that closes at midnight is of the month before.
CREATE VIEW backtest_month AS
  SELECT l.run_id, l.month, round(100 * (l.unit_value / nullif(lag(l.unit_value, 1, 1) OVER (PARTITION BY l.run_id ORDER BY l.month), 0) - 1), 2) AS return_percent
    FROM (SELECT DISTINCT ON (q.run_id, date_trunc('month', q.time - interval '1 us', 'UTC')) q.run_id,
                 date_trunc('month', q.time - interval '1 us', 'UTC') AS month, q.unit_value
            FROM backtest_equity q
           ORDER BY q.run_id, date_trunc('month', q.time - interval '1 us', 'UTC'), q.time DESC) l;
COMMENT ON VIEW backtest_month IS 'What each backtest returned in each month that it had candles of.';
COMMENT ON COLUMN backtest_month.run_id IS 'The row of backtest_run.';
COMMENT ON COLUMN backtest_month.month IS 'Its first moment, UTC.';
COMMENT ON COLUMN backtest_month.return_percent IS 'Time-weighted.';

GRANT SELECT ON backtest_run, backtest_trade, backtest_equity, backtest, backtest_month TO tallydesk_reader, tallydesk_user;
GRANT INSERT ON backtest_run, backtest_trade, backtest_equity TO tallydesk_user;
GRANT DELETE ON backtest_run TO tallydesk_user;


----------------------------------------------------------------------------------------------------
-- SWEEP
----------------------------------------------------------------------------------------------------

-- Searches over a strategy's parameters: what is searched, each set that was tried, and what it made. Workers do it in chunks.

CREATE TYPE sweep_method AS ENUM ('grid', 'random', 'tpe', 'qmc', 'cmaes');
CREATE TYPE sweep_state AS ENUM ('running', 'stopped', 'done', 'failed');
CREATE TYPE sweep_trial_state AS ENUM ('pending', 'done', 'failed');

CREATE TABLE sweep (
  id               int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  class            text NOT NULL CONSTRAINT class_is_module_and_name CHECK (class ~ '^[^:\s]+:[^:\s]+$'),
  code_digest      text NOT NULL,
  market_id        int NOT NULL REFERENCES market,
  timeframe_id     smallint NOT NULL REFERENCES timeframe,
  since            timestamptz NOT NULL,
  until            timestamptz NOT NULL,
  candles          int NOT NULL CONSTRAINT candles_are_at_least_2 CHECK (candles >= 2),
  candle_digest    text NOT NULL,
  params           jsonb NOT NULL DEFAULT '{}' CONSTRAINT params_is_an_object CHECK (jsonb_typeof(params) = 'object'),
  space            jsonb NOT NULL CONSTRAINT space_is_an_object CHECK (jsonb_typeof(space) = 'object' AND space <> '{}'),
  settings         jsonb NOT NULL DEFAULT '{}' CONSTRAINT settings_is_an_object CHECK (jsonb_typeof(settings) = 'object'),
  schedule         text NOT NULL DEFAULT 'bucket',
  method           sweep_method NOT NULL,
  seed             bigint NOT NULL DEFAULT 0,
  trials           int NOT NULL CONSTRAINT trials_is_above_zero CHECK (trials > 0),
  skipped          int NOT NULL DEFAULT 0 CONSTRAINT skipped_is_not_below_zero CHECK (skipped >= 0),
  generation_size  int CONSTRAINT generation_size_is_above_zero CHECK (generation_size > 0),
  generation       int NOT NULL DEFAULT 0 CONSTRAINT generation_is_not_below_zero CHECK (generation >= 0),
  chunk_size       int NOT NULL CONSTRAINT chunk_size_is_above_zero CHECK (chunk_size > 0),
  objective        text NOT NULL,
  folds            smallint NOT NULL DEFAULT 0 CONSTRAINT folds_are_not_below_zero CHECK (folds >= 0),
  train            smallint CONSTRAINT train_is_above_zero CHECK (train > 0),
  embargo          int NOT NULL DEFAULT 0 CONSTRAINT embargo_is_not_below_zero CHECK (embargo >= 0),
  anchored         boolean NOT NULL DEFAULT false,
  state            sweep_state NOT NULL DEFAULT 'running',
  error            text,
  out_of_sample    jsonb,
  created_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
  finished_at      timestamptz,
  CONSTRAINT since_is_before_until CHECK (since < until),
  CONSTRAINT a_sampler_proposes_in_generations CHECK ((method IN ('grid', 'random')) = (generation_size IS NULL)),
  CONSTRAINT a_walk_forward_has_folds_and_train CHECK ((folds > 0) = (train IS NOT NULL)),
  CONSTRAINT what_failed_says_why CHECK ((state = 'failed') = (error IS NOT NULL)),
  CONSTRAINT what_has_ended_says_when CHECK ((state IN ('done', 'failed')) = (finished_at IS NOT NULL))
) WITH (fillfactor = 50);
CREATE INDEX sweep_running ON sweep (id) WHERE state = 'running';
COMMENT ON TABLE sweep IS 'A search over the parameters of a strategy on stored candles. tallydesk sweep makes one; to remove one with its trials: DELETE FROM sweep WHERE id = ...';
COMMENT ON COLUMN sweep.class IS 'module:Class.';
COMMENT ON COLUMN sweep.code_digest IS 'A hash of the file of the class when the sweep began: a worker that has another file does not go on.';
COMMENT ON COLUMN sweep.since IS 'When the first candle opens.';
COMMENT ON COLUMN sweep.until IS 'When the last candle closes.';
COMMENT ON COLUMN sweep.candles IS 'How many candles there were when it began.';
COMMENT ON COLUMN sweep.candle_digest IS 'A hash of all of them: a trial is run on the same ones, or the sweep fails.';
COMMENT ON COLUMN sweep.params IS 'Parameters that are the same in every set; the class''s defaults for the others.';
COMMENT ON COLUMN sweep.space IS 'What is searched: each parameter with its values, such as {"fast": "2..50:2", "price": "close,ohlc4"}.';
COMMENT ON COLUMN sweep.settings IS 'Of the backtests: docs/backtests.md. What is not named has its default.';
COMMENT ON COLUMN sweep.schedule IS 'bucket, minute, hour or day: at which candles the strategy decides.';
COMMENT ON COLUMN sweep.method IS 'grid: all sets; random: drawn; tpe, qmc, cmaes: proposed by Optuna''s sampler of this name.';
COMMENT ON COLUMN sweep.seed IS 'All chance comes from it: the same sweep gives the same rows.';
COMMENT ON COLUMN sweep.trials IS 'How many sets are tried in each fold.';
COMMENT ON COLUMN sweep.skipped IS 'Sets that the class does not take (fast >= slow), and drawn ones that were there already.';
COMMENT ON COLUMN sweep.generation_size IS 'So many sets are proposed at a time, from the results of all generations before: never from who was done first. NULL: nothing is proposed.';
COMMENT ON COLUMN sweep.generation IS 'How many generations were proposed so far.';
COMMENT ON COLUMN sweep.chunk_size IS 'How many trials one job runs; a worker that is killed loses at most those.';
COMMENT ON COLUMN sweep.objective IS 'The measure that is to be as large as can be.';
COMMENT ON COLUMN sweep.folds IS 'Tests of the walk-forward; 0: there is none, all candles are one sample.';
COMMENT ON COLUMN sweep.train IS 'How long a training is, in lengths of a test; if anchored, the first one.';
COMMENT ON COLUMN sweep.embargo IS 'Candles between a training and its test that belong to neither.';
COMMENT ON COLUMN sweep.anchored IS 'Every training begins at the first candle, and so grows; else all are equally long.';
COMMENT ON COLUMN sweep.state IS 'running: workers do it; stopped: tallydesk sweep resume goes on; done, failed: it has ended.';
COMMENT ON COLUMN sweep.error IS 'Why it failed.';
COMMENT ON COLUMN sweep.out_of_sample IS 'Of a walk-forward: the measures of all tests as one run.';
COMMENT ON COLUMN sweep.finished_at IS 'When it was done, or failed.';

CREATE TABLE sweep_fold (
  sweep_id         int NOT NULL REFERENCES sweep ON DELETE CASCADE,
  fold             smallint NOT NULL,
  train_first      timestamptz NOT NULL,
  train_last       timestamptz NOT NULL,
  test_first       timestamptz,
  test_last        timestamptz,
  best             int,
  deflated_sharpe  float8 CONSTRAINT deflated_sharpe_is_a_probability CHECK (deflated_sharpe BETWEEN 0 AND 1),
  PRIMARY KEY (sweep_id, fold),
  CONSTRAINT a_test_comes_after_its_training CHECK (train_first < train_last AND train_last < test_first AND test_first <= test_last),
  CONSTRAINT a_test_has_both_ends CHECK ((test_first IS NULL) = (test_last IS NULL))
);
COMMENT ON TABLE sweep_fold IS 'The samples of a sweep: fold 0 is all of it; of a walk-forward, folds 1, 2, ... each with a training and the test that follows.';
COMMENT ON COLUMN sweep_fold.fold IS '0: no walk-forward.';
COMMENT ON COLUMN sweep_fold.train_first IS 'When the first candle of the training closes.';
COMMENT ON COLUMN sweep_fold.train_last IS 'When its last candle closes.';
COMMENT ON COLUMN sweep_fold.test_first IS 'When the first candle of the test closes; NULL: there is no test.';
COMMENT ON COLUMN sweep_fold.test_last IS 'When its last candle closes.';
COMMENT ON COLUMN sweep_fold.best IS 'Number of the trial with the largest value in the training; NULL: not yet, or none has a value.';
COMMENT ON COLUMN sweep_fold.deflated_sharpe IS 'How likely the best trial''s Sharpe ratio is above what the best of so many tries without any skill would have: docs/sweeps.md.';

CREATE TABLE sweep_trial (
  sweep_id       int NOT NULL,
  fold           smallint NOT NULL,
  number         int NOT NULL,
  generation     int NOT NULL DEFAULT 0,
  chunk          int NOT NULL,
  params         jsonb NOT NULL,
  state          sweep_trial_state NOT NULL DEFAULT 'pending',
  value          float8 CONSTRAINT value_is_finite CHECK (value > '-Infinity' AND value < 'Infinity'),
  in_sample      jsonb,
  out_of_sample  jsonb,
  error          text,
  PRIMARY KEY (sweep_id, fold, number),
  FOREIGN KEY (sweep_id, fold) REFERENCES sweep_fold ON DELETE CASCADE,
  CONSTRAINT what_failed_says_why CHECK ((state = 'failed') = (error IS NOT NULL)),
  CONSTRAINT what_is_done_has_measures CHECK ((state = 'done') = (in_sample IS NOT NULL)),
  CONSTRAINT only_what_is_done_has_a_value CHECK (state = 'done' OR value IS NULL)
) WITH (fillfactor = 50);
CREATE INDEX sweep_trial_pending ON sweep_trial (sweep_id, chunk) WHERE state = 'pending';
CREATE INDEX sweep_trial_best ON sweep_trial (sweep_id, fold, value DESC, number) WHERE value IS NOT NULL;
COMMENT ON TABLE sweep_trial IS 'One set of parameters on one fold, and what it made there.';
COMMENT ON COLUMN sweep_trial.fold IS 'Of sweep_fold.';
COMMENT ON COLUMN sweep_trial.number IS 'From 1 on in each fold; without a sampler, the same number is the same set in every fold.';
COMMENT ON COLUMN sweep_trial.generation IS 'In which it was proposed, from 0 on.';
COMMENT ON COLUMN sweep_trial.chunk IS 'The job that runs it, with others of its fold and generation.';
COMMENT ON COLUMN sweep_trial.params IS 'Of the strategy: those that are searched.';
COMMENT ON COLUMN sweep_trial.state IS 'pending: not run yet; failed: the strategy raised, or its signal is none.';
COMMENT ON COLUMN sweep_trial.value IS 'The objective; NULL: it cannot be told (no trade, no loss).';
COMMENT ON COLUMN sweep_trial.in_sample IS 'The measures of docs/backtests.md on the training, and of its returns: periods, sharpe_period, skew, kurtosis.';
COMMENT ON COLUMN sweep_trial.out_of_sample IS 'The same on the test, of the best trial of each fold alone.';
COMMENT ON COLUMN sweep_trial.error IS 'What the strategy raised, and where.';

CREATE TRIGGER written BEFORE INSERT OR UPDATE ON sweep FOR EACH STATEMENT
  EXECUTE FUNCTION only_from_processes('tallydesk sweep makes one, and tallydesk sweep stop ends one');
CREATE TRIGGER written BEFORE INSERT OR UPDATE OR DELETE ON sweep_fold FOR EACH STATEMENT
  EXECUTE FUNCTION only_from_processes('it belongs to its sweep');
CREATE TRIGGER written BEFORE INSERT OR UPDATE OR DELETE ON sweep_trial FOR EACH STATEMENT
  EXECUTE FUNCTION only_from_processes('it is what a backtest made; to remove a sweep with its trials: DELETE FROM sweep');

CREATE VIEW sweeps AS
  SELECT s.id, s.class, e.name || ':' || m.symbol AS market, t.name AS timeframe, s.method::text AS method, s.objective, s.state::text AS state,
         s.folds, s.trials * greatest(s.folds, 1) AS trials, n.done, n.failed, s.skipped, b.value AS best, b.deflated_sharpe,
         (s.out_of_sample->>'sharpe')::float8 AS test_sharpe, (s.out_of_sample->>'return_percent')::float8 AS test_return_percent,
         s.created_at, s.finished_at, s.error
    FROM sweep s
    JOIN market m ON m.id = s.market_id
    JOIN exchange e ON e.id = m.exchange_id
    JOIN timeframe t ON t.id = s.timeframe_id
   CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE y.state <> 'pending') AS done, count(*) FILTER (WHERE y.state = 'failed') AS failed
                         FROM sweep_trial y WHERE y.sweep_id = s.id) n
    LEFT JOIN LATERAL (SELECT y.value, f.deflated_sharpe FROM sweep_fold f JOIN sweep_trial y ON (y.sweep_id, y.fold, y.number) = (f.sweep_id, f.fold, f.best)
                        WHERE f.sweep_id = s.id AND f.fold = 0) b ON true;
COMMENT ON VIEW sweeps IS 'Searches over parameters by names, and how far they are.';
COMMENT ON COLUMN sweeps.class IS 'module:Class.';
COMMENT ON COLUMN sweeps.method IS 'grid, random, or the sampler of Optuna that proposes sets.';
COMMENT ON COLUMN sweeps.objective IS 'The measure that is to be as large as can be.';
COMMENT ON COLUMN sweeps.state IS 'running, stopped, done or failed.';
COMMENT ON COLUMN sweeps.folds IS 'Tests of the walk-forward; 0: there is none.';
COMMENT ON COLUMN sweeps.trials IS 'How many there are to be, in all folds.';
COMMENT ON COLUMN sweeps.done IS 'How many were run, the failed ones included.';
COMMENT ON COLUMN sweeps.failed IS 'How many of them the strategy raised in.';
COMMENT ON COLUMN sweeps.skipped IS 'Sets that the class does not take, and drawn ones that were there already.';
COMMENT ON COLUMN sweeps.best IS 'The largest value; NULL: not done yet, or a walk-forward, whose best ones are in sweep_fold.';
COMMENT ON COLUMN sweeps.deflated_sharpe IS 'Of the best trial: see sweep_fold.';
COMMENT ON COLUMN sweeps.test_sharpe IS 'Of a walk-forward, of all tests as one run.';
COMMENT ON COLUMN sweeps.test_return_percent IS 'Of a walk-forward, of all tests as one run.';
COMMENT ON COLUMN sweeps.finished_at IS 'When it was done, or failed.';
COMMENT ON COLUMN sweeps.error IS 'Why it failed.';

GRANT SELECT ON sweep, sweep_fold, sweep_trial, sweeps TO tallydesk_reader, tallydesk_user;
GRANT DELETE ON sweep TO tallydesk_user;


----------------------------------------------------------------------------------------------------
-- OPEN_ORDER
----------------------------------------------------------------------------------------------------

-- Each branch is the predicate of a partial index: what is not done is found at once, however much is done.
CREATE VIEW open_order AS
  SELECT id, strategy_id, account_id, market_id FROM "order" WHERE status < 'queued'
  UNION ALL SELECT id, strategy_id, account_id, market_id FROM "order" WHERE status = 'queued'
  UNION ALL SELECT id, strategy_id, account_id, market_id FROM "order" WHERE status = 'submitted'
  UNION ALL SELECT id, strategy_id, account_id, market_id FROM "order" WHERE status IN ('accepted', 'partially_filled', 'pending_cancel');
COMMENT ON VIEW open_order IS 'Orders that are not done. To find a strategy''s quickly, name its account, too.';
GRANT SELECT ON open_order TO tallydesk_reader, tallydesk_user;
COMMENT ON COLUMN open_order.account_id IS 'On which it is.';
COMMENT ON COLUMN open_order.market_id IS 'What it trades.';


----------------------------------------------------------------------------------------------------
-- TRAIL
----------------------------------------------------------------------------------------------------

-- Trailing stops: an order that waits for a price which follows the market, and never comes back.

ALTER TABLE "order"
  ADD COLUMN trail numeric,
  ADD CONSTRAINT trail_is_a_share_of_at_most_18_decimals CHECK (trail > 0 AND trail < 1 AND trail = round(trail, 18)),
  ADD CONSTRAINT only_a_market_order_trails CHECK (trail IS NULL OR type = 'market'),
  ADD CONSTRAINT what_trails_is_met_from_its_own_side CHECK (trail IS NULL OR trigger_when = CASE side WHEN 'sell' THEN 'falls' ELSE 'rises' END::trigger_when);
COMMENT ON COLUMN "order".trail IS 'A trailing stop: trigger_price is kept at (1 - trail) x the highest price since it counts, of a buy at (1 + trail) x the lowest. 0.05 is 5 %.';
COMMENT ON COLUMN "order".trigger_price IS 'It waits here, unknown to the venue, until the last price comes to this; then it is queued. With a trail a trader moves it, and it is NULL until one has seen a price.';

CREATE FUNCTION order_trail() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
  IF NOT (NEW.trail > 0 AND NEW.trail < 1 AND NEW.trail = round(NEW.trail, 18)) THEN
    RAISE EXCEPTION 'trail is %: it must be a share above 0 and below 1 of at most 18 decimals; 0.05 is 5 %%', NEW.trail USING ERRCODE = 'check_violation';
  ELSIF NEW.type <> 'market' THEN
    RAISE EXCEPTION 'trail is %: only a market order trails; a % has no price that could follow', trim_scale(NEW.trail),
      CASE NEW.type WHEN 'limit' THEN 'limit order' ELSE NEW.type::text END USING ERRCODE = 'check_violation';
  ELSIF NEW.trigger_when IS NOT NULL OR (NEW.trigger_price IS NOT NULL AND process() = '') THEN
    RAISE EXCEPTION 'trail is %: leave trigger_price and trigger_when empty; the one follows the price, the other the side', trim_scale(NEW.trail)
      USING ERRCODE = 'check_violation';
  END IF;
  NEW.trigger_when := CASE WHEN NEW.trigger_price IS NOT NULL THEN CASE NEW.side WHEN 'sell' THEN 'falls' ELSE 'rises' END END;
  NEW.status := 'waiting';
  IF NEW.expires_at = NEW.created_at + (SELECT order_ttl FROM strategy WHERE id = NEW.strategy_id) THEN
    NEW.expires_at := NULL;  -- nobody gave it: as with all that wait, order_ttl counts from the queue
  END IF;
  RETURN NEW;
END $$;
COMMENT ON FUNCTION order_trail IS 'Trigger: what a trailing stop may be. It runs after order_insert, by its name. A process may say from which price it starts.';
CREATE TRIGGER order_trail BEFORE INSERT ON "order" FOR EACH ROW WHEN (NEW.trail IS NOT NULL) EXECUTE FUNCTION order_trail();

CREATE FUNCTION order_trail_moves() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF OLD.status <> 'waiting' OR OLD.triggered_at IS NOT NULL OR NEW.trigger_price IS NULL
     OR (CASE NEW.side WHEN 'sell' THEN NEW.trigger_price < OLD.trigger_price ELSE NEW.trigger_price > OLD.trigger_price END) THEN
    RAISE EXCEPTION 'order %: its trigger price only % while it waits', OLD.id, CASE NEW.side WHEN 'sell' THEN 'rises' ELSE 'falls' END
      USING ERRCODE = 'restrict_violation';
  END IF;
  RETURN NEW;
END $$;
COMMENT ON FUNCTION order_trail_moves IS 'Trigger: the trigger price of a trailing stop never comes back, whoever writes it.';
CREATE TRIGGER order_trail_moves BEFORE UPDATE ON "order" FOR EACH ROW
  WHEN (OLD.trail IS NOT NULL AND OLD.trigger_price IS DISTINCT FROM NEW.trigger_price) EXECUTE FUNCTION order_trail_moves();

-- These functions change in a few words each; whatever else they have become stays.
DO $$
DECLARE
  change record;
  definition text;
BEGIN
  FOR change IN SELECT * FROM (VALUES
      ('order_update', 'NEW.time_in_force, NEW.trigger_price,', 'NEW.time_in_force, NEW.trail, CASE WHEN OLD.trail IS NULL THEN NEW.trigger_price END,'),
      ('order_update', 'OLD.time_in_force, OLD.trigger_price,', 'OLD.time_in_force, OLD.trail, CASE WHEN OLD.trail IS NULL THEN OLD.trigger_price END,'),
      ('order_release', 'OR w.trigger_price IS NULL AND', 'OR num_nonnulls(w.trigger_price, w.trail) = 0 AND'),
      ('order_release', 'g.id <> w.id AND w.trigger_price IS NULL AND g.triggered_at', 'g.id <> w.id AND num_nonnulls(w.trigger_price, w.trail) = 0 AND g.triggered_at'),
      ('order_release', 'w.trigger_price IS NOT NULL AND (', 'num_nonnulls(w.trigger_price, w.trail) > 0 AND ('),
      ('order_stuck', 'w.trigger_price IS NULL OR', 'num_nonnulls(w.trigger_price, w.trail) = 0 OR'),
      ('orders_insert', 'trigger_when, after_id, parent_id, replaces_id, expires_at', 'trigger_when, trail, after_id, parent_id, replaces_id, expires_at'),
      ('orders_insert', 'NEW.trigger_when, NEW.after_id, NEW.parent_id, NEW.replaces_id) > 0', 'NEW.trigger_when, NEW.trail, NEW.after_id, NEW.parent_id, NEW.replaces_id) > 0'),
      ('orders_insert', 'NEW.trigger_when IS NOT NULL AND NEW.trigger_price IS NULL THEN', 'NEW.trigger_when IS NOT NULL AND NEW.trigger_price IS NULL AND NEW.trail IS NULL THEN'),
      ('orders_insert', 'trigger_price, trigger_when, after_id, parent_id, replaces_id)', 'trigger_price, trigger_when, trail, after_id, parent_id, replaces_id)'),
      ('orders_insert', 'NEW.trigger_when::trigger_when, NEW.after_id,', 'NEW.trigger_when::trigger_when, NEW.trail, NEW.after_id,')
    ) x (function, old, new) LOOP
    definition := pg_get_functiondef(change.function::regproc);
    IF (length(definition) - length(replace(definition, change.old, ''))) / length(change.old) <> 1 THEN
      RAISE EXCEPTION '% does not have "%" once', change.function, change.old;
    END IF;
    EXECUTE replace(definition, change.old, change.new);
  END LOOP;
  definition := pg_get_viewdef('invariant_violation');
  IF array_length(string_to_array(definition, '(w.trigger_price IS NULL)'), 1) <> 3 THEN
    RAISE EXCEPTION 'the rules of invariant_violation on orders that wait are not what they were';
  END IF;
  EXECUTE 'CREATE OR REPLACE VIEW invariant_violation AS ' || replace(definition, '(w.trigger_price IS NULL)', '(num_nonnulls(w.trigger_price, w.trail) = 0)');
END $$;

-- A column more at the end; whatever else the view has become stays.
DO $$
DECLARE
  definition text := pg_get_viewdef('orders');
  c record;
BEGIN
  IF array_length(string_to_array(definition, 'AS due_quantity'), 1) <> 2 THEN
    RAISE EXCEPTION 'the view orders is not what it was';
  END IF;
  EXECUTE 'CREATE OR REPLACE VIEW orders AS ' || replace(definition, 'AS due_quantity', 'AS due_quantity, trim_scale(o.trail) AS trail');
  FOR c IN SELECT attname AS name, col_description(attrelid, attnum) AS meaning FROM pg_attribute
            WHERE attrelid = '"order"'::regclass AND attname IN ('trail', 'trigger_price') LOOP
    EXECUTE format('COMMENT ON COLUMN orders.%I IS %L', c.name, c.meaning);
  END LOOP;
END $$;

GRANT INSERT (trail) ON "order" TO tallydesk_user;


----------------------------------------------------------------------------------------------------
-- COMMENTS
----------------------------------------------------------------------------------------------------

-- Comments in the words of today: steps since have changed what their columns hold.

COMMENT ON COLUMN backtest_run.refused IS 'Orders that were decided and not filled, and entries that were not taken: how many, by reason.';
COMMENT ON COLUMN backtest_run.digest IS 'SHA-256 of the candles and of those of the inputs, and of the gaps that its class does not decide across, so that a change of the data shows.';
COMMENT ON COLUMN strategy_state.target IS 'The last target that it gave; the next one is a fresh cross if this is 0 or less. NULL: none yet, or a gap that its class does not accept came after it.';
COMMENT ON COLUMN orders.bucket_time IS 'The close of the candle that it answers; each part of a strategy''s decision there is one order at most.';


----------------------------------------------------------------------------------------------------
-- SWEEP_INPUT
----------------------------------------------------------------------------------------------------

-- The candles of a sweep's inputs must stay what they are while it runs, as its own must.

CREATE TABLE sweep_input (
  sweep_id      int NOT NULL REFERENCES sweep ON DELETE CASCADE,
  market_id     int NOT NULL REFERENCES market,
  timeframe_id  smallint NOT NULL REFERENCES timeframe,
  digest        text NOT NULL,
  PRIMARY KEY (sweep_id, market_id, timeframe_id)
);
COMMENT ON TABLE sweep_input IS 'The candles of inputs that trials of a sweep were run on, up to its end: whoever reads others later ends the sweep.';
COMMENT ON COLUMN sweep_input.digest IS 'A hash of them and of the gaps that the class does not decide across, by whoever read them first.';
CREATE TRIGGER written BEFORE INSERT OR UPDATE OR DELETE ON sweep_input FOR EACH STATEMENT
  EXECUTE FUNCTION only_from_processes('it belongs to its sweep');
GRANT SELECT ON sweep_input TO tallydesk_reader, tallydesk_user;
