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
