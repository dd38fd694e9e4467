DROP TRIGGER a_feed_that_lost_its_newest_is_due ON bucket_feed;
DROP FUNCTION bucket_feed_lost_its_newest();
CREATE OR REPLACE VIEW feeds AS
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
COMMENT ON COLUMN feeds.lag IS 'How long a newer candle could have been there already; NULL: not kept up to date, or replayed on another clock.';
DROP TRIGGER offline ON exchange;
DROP FUNCTION exchange_goes_offline();
DROP TRIGGER offline ON bucket_feed;
DROP FUNCTION offline_is_not_fetched();
DROP TRIGGER offline ON account;
DROP FUNCTION offline_has_no_accounts();
ALTER TABLE exchange DROP COLUMN offline;
