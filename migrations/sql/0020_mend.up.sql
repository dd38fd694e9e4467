-- One row that cannot be read held up all feeds of its exchange: whoever claims several reads it, too.

UPDATE bucket_feed SET keep = NULL WHERE keep > interval '1000 years';
ALTER TABLE bucket_feed
  ADD CONSTRAINT keep_is_at_most_1000_years CHECK (keep <= interval '1000 years'),
  ADD CONSTRAINT listed_at_is_between_the_years_1970_and_9000 CHECK (listed_at BETWEEN '1970-01-01 00:00+00' AND '9000-01-01 00:00+00'),
  ADD CONSTRAINT reachable_from_is_between_the_years_1970_and_9000 CHECK (reachable_from BETWEEN '1970-01-01 00:00+00' AND '9000-01-01 00:00+00'),
  ADD CONSTRAINT newest_is_between_the_years_1970_and_9001 CHECK (newest BETWEEN '1970-01-01 00:00+00' AND '9001-01-01 00:00+00'),
  ADD CONSTRAINT covered_is_between_the_years_1900_and_9001 CHECK (covered <@ '{[1900-01-01 00:00+00, 9001-01-01 00:00+00)}'::tstzmultirange),
  ADD CONSTRAINT quiet_is_between_the_years_1900_and_9999 CHECK (quiet <@ '{[1900-01-01 00:00+00, 9999-12-31 00:00+00)}'::tstzmultirange),
  DROP CONSTRAINT derived_from_divides_the_timeframe,
  ADD CONSTRAINT derived_from_divides_the_timeframe CHECK (CASE WHEN derived_from <= 0 THEN false ELSE
    timeframe_id > derived_from AND CASE WHEN timeframe_id = 32767 THEN 1440 ELSE timeframe_id END % derived_from = 0 END);

CREATE TRIGGER newest_follows AFTER UPDATE ON bucket_feed FOR EACH ROW WHEN (OLD.newest IS DISTINCT FROM NEW.newest)
  EXECUTE FUNCTION only_from_processes('newest follows the candles');

-- Fires after follow_market, which makes the feeds of a market that trades again due: those that are derived are not fetched.
CREATE FUNCTION bucket_feed_derived_is_never_due() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.due_at := '9000-01-01Z';
  NEW.backfill_at := NULL;
  RETURN NEW;
END $$;
COMMENT ON FUNCTION bucket_feed_derived_is_never_due IS 'Trigger: the venue is never asked for what is derived.';
CREATE TRIGGER z_derived_is_never_due BEFORE INSERT OR UPDATE ON bucket_feed FOR EACH ROW WHEN (NEW.derived_from IS NOT NULL)
  EXECUTE FUNCTION bucket_feed_derived_is_never_due();
UPDATE bucket_feed SET due_at = '9000-01-01Z' WHERE derived_from IS NOT NULL;

-- One rate that a person fixes must not make the product of several, or of a balance, a number that cannot be told.
UPDATE asset_rate SET rate = least(1e30, greatest(1e-30, rate)) WHERE source = 'fixed' AND rate NOT BETWEEN 1e-30 AND 1e30;
ALTER TABLE asset_rate ADD CONSTRAINT rate_is_within_1e_minus_30_and_1e30 CHECK (rate BETWEEN 1e-30 AND 1e30 OR source = 'market');
