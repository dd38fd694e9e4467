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
