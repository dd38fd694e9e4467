-- An exchange of files: markets whose candles are imported, at a venue that nobody asks anything.

ALTER TABLE exchange ADD COLUMN offline boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN exchange.offline IS 'No venue is asked: its candles come from files, its markets from tallydesk market add. It has no accounts, and nothing of it is fetched.';

CREATE FUNCTION offline_has_no_accounts() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
  exchange_ text;
BEGIN
  SELECT name INTO exchange_ FROM exchange WHERE id = NEW.exchange_id AND offline;
  IF FOUND THEN
    RAISE EXCEPTION 'account %: exchange % is offline (its candles come from files): no venue can be reached for it', NEW.name, exchange_
      USING ERRCODE = 'restrict_violation', HINT = 'UPDATE exchange SET offline = false, if there is a venue after all; else give the account an exchange of another name.';
  END IF;
  RETURN NEW;
END $$;
COMMENT ON FUNCTION offline_has_no_accounts IS 'Trigger: an account needs a venue.';
CREATE TRIGGER offline BEFORE INSERT ON account FOR EACH ROW EXECUTE FUNCTION offline_has_no_accounts();

CREATE FUNCTION offline_is_not_fetched() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
  market_ text;
BEGIN
  SELECT e.name || ':' || m.symbol INTO market_ FROM market m JOIN exchange e ON e.id = m.exchange_id WHERE m.id = NEW.market_id AND e.offline;
  IF FOUND THEN
    RAISE EXCEPTION 'feed of %: its exchange is offline: no venue is asked, its candles come from files (tallydesk bucket import)', market_
      USING ERRCODE = 'restrict_violation', HINT = 'What is derived from imported candles may be on: tallydesk bucket derive.';
  END IF;
  RETURN NEW;
END $$;
COMMENT ON FUNCTION offline_is_not_fetched IS 'Trigger: a feed that is fetched needs a venue.';
CREATE TRIGGER offline BEFORE INSERT OR UPDATE OF enabled, derived_from, market_id ON bucket_feed FOR EACH ROW WHEN (NEW.enabled AND NEW.derived_from IS NULL)
  EXECUTE FUNCTION offline_is_not_fetched();

CREATE FUNCTION exchange_goes_offline() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
  IF EXISTS (SELECT FROM account WHERE exchange_id = NEW.id) THEN
    RAISE EXCEPTION 'exchange % cannot be offline: it has accounts', NEW.name USING ERRCODE = 'restrict_violation';
  ELSIF EXISTS (SELECT FROM bucket_feed WHERE exchange_id = NEW.id AND enabled AND derived_from IS NULL) THEN
    RAISE EXCEPTION 'exchange % cannot be offline: feeds of it are on', NEW.name
      USING ERRCODE = 'restrict_violation', HINT = format('tallydesk feed pause %s ''*''', NEW.name);
  END IF;
  RETURN NEW;
END $$;
COMMENT ON FUNCTION exchange_goes_offline IS 'Trigger: an exchange with accounts, or with feeds that are fetched, is not offline.';
CREATE TRIGGER offline BEFORE UPDATE ON exchange FOR EACH ROW WHEN (NEW.offline AND NOT OLD.offline) EXECUTE FUNCTION exchange_goes_offline();

-- A candle of the future, which somebody wrote, hides nothing: the lag is that of the newest candle that has closed.
CREATE OR REPLACE VIEW feeds AS
  SELECT e.name || ':' || m.symbol AS market, t.name AS timeframe, f.status::text AS status, f.enabled,
         coalesce(to_char(f.collect_since AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI'), 'listing') AS collect_since, f.keep,
         (SELECT b.time_close - t.span FROM bucket b WHERE b.market_id = f.market_id AND b.timeframe_id = f.timeframe_id
           ORDER BY b.time_close LIMIT 1) AS oldest,
         f.newest,
         CASE WHEN f.enabled AND NOT e.replay AND NOT e.offline THEN greatest(interval '0', clock_timestamp() - n.closed - t.span) END AS lag,
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
   CROSS JOIN LATERAL (SELECT CASE WHEN f.newest <= clock_timestamp() THEN f.newest
                                   ELSE (SELECT max(b.time_close) FROM bucket b WHERE b.market_id = f.market_id AND b.timeframe_id = f.timeframe_id
                                            AND b.time_close <= statement_timestamp()) END AS closed) n
   CROSS JOIN LATERAL (SELECT CASE WHEN e.replay OR NOT f.enabled THEN f.newest ELSE clock_timestamp() - t.span END AS stop) s
   CROSS JOIN LATERAL (SELECT greatest(coalesce(f.collect_since, f.listed_at), f.reachable_from, s.stop - f.keep) AS start, s.stop
                        WHERE coalesce(f.collect_since, f.listed_at) IS NOT NULL
                       UNION ALL SELECT NULL, s.stop WHERE coalesce(f.collect_since, f.listed_at) IS NULL) w;
COMMENT ON COLUMN feeds.lag IS 'How long a newer candle could have been there already; NULL: not kept up to date, offline, or replayed on another clock.';

-- Where the newest candles go, what the feed was waiting for was told by them. Fires before follow_market, which has the last word.
CREATE FUNCTION bucket_feed_lost_its_newest() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.due_at := clock_timestamp();
  RETURN NEW;
END $$;
COMMENT ON FUNCTION bucket_feed_lost_its_newest IS 'Trigger: a feed whose newest candles were deleted is due.';
CREATE TRIGGER a_feed_that_lost_its_newest_is_due BEFORE UPDATE OF newest ON bucket_feed FOR EACH ROW
  WHEN (NEW.derived_from IS NULL AND OLD.newest > coalesce(NEW.newest, '-infinity')) EXECUTE FUNCTION bucket_feed_lost_its_newest();
