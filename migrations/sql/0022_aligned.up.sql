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
