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
