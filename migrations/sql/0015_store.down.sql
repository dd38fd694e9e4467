DROP TRIGGER kept ON bucket_feed;
DROP TRIGGER moved ON bucket_feed;
DROP TRIGGER emptied ON bucket_feed;
DROP TRIGGER follows ON bucket_feed;
DROP TRIGGER inserted ON bucket;
DROP TRIGGER updated ON bucket;
DROP TRIGGER deleted ON bucket;
DROP TRIGGER truncated ON bucket;
DROP VIEW bucket_gap;
DROP FUNCTION bucket_inserted(), bucket_updated(), bucket_deleted(), bucket_truncated(), bucket_feed_kept(),
  bucket_moved(int[], smallint[], timestamptz[], timestamptz[]), gap_follow(int[], smallint[], timestamptz[], timestamptz[]),
  candle_hash(timestamptz, float8, float8, float8, float8, float8), candles_between(timestamptz, timestamptz, interval),
  candle_time(timestamptz, float8, interval);
DROP TABLE gap, bucket_correction;
DROP TYPE gap_kind;
ALTER TABLE bucket_feed DROP COLUMN covered, DROP COLUMN revision, DROP COLUMN rewritten, DROP COLUMN digest;
COMMENT ON COLUMN bucket_feed.newest IS 'The close of the newest candle stored.';

-- A value cannot be taken out of a type: a new type, and "derived" for what was built from trades.
ALTER TYPE bucket_source RENAME TO bucket_source_15;
CREATE TYPE bucket_source AS ENUM ('fetched', 'imported', 'derived');
ALTER TABLE bucket DROP COLUMN partial,
  ALTER COLUMN source TYPE bucket_source USING (CASE source::text WHEN 'trades' THEN 'derived' ELSE source::text END)::bucket_source;
DROP TYPE bucket_source_15;
ALTER TABLE bucket ADD FOREIGN KEY (market_id) REFERENCES market, ADD FOREIGN KEY (timeframe_id) REFERENCES timeframe;
COMMENT ON COLUMN bucket.market_id IS NULL;
COMMENT ON COLUMN bucket.timeframe_id IS NULL;
COMMENT ON COLUMN bucket.source IS 'fetched from the venue, imported from a file, or derived from smaller ones.';

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
GRANT SELECT ON bucket_gap TO tallydesk_reader, tallydesk_user;
