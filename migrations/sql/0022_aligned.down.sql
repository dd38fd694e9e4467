ALTER TABLE bucket DROP CONSTRAINT time_close_is_where_a_candle_of_the_timeframe_closes;
COMMENT ON COLUMN bucket_feed.keep IS 'How long candles are kept: older ones are deleted, and not fetched. NULL: for ever.';
