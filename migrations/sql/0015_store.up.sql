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
