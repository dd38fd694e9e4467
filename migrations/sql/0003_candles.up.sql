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
