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
