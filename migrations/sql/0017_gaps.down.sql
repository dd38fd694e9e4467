DROP TRIGGER outdates_inserted ON bucket;
DROP TRIGGER outdates_updated ON bucket;
DROP TRIGGER outdates_deleted ON bucket;
DROP TRIGGER outdates_inserted ON gap;
DROP TRIGGER outdates_updated ON gap;
DROP TRIGGER outdates_deleted ON gap;
DROP TRIGGER b_derived_feed ON bucket_feed;
DROP TRIGGER b_derived_feed_changed ON bucket_feed;
DROP FUNCTION bucket_outdates(), gap_outdates(), bucket_feed_is_derived(), bucket_outdate(int, smallint, tstzmultirange),
  candle_start(timestamptz, interval);
DROP INDEX gap_open, bucket_feed_quiet;
ALTER TABLE gap DROP COLUMN quiet_at;
-- What was derived would be taken for fetched, and fetched: such feeds are switched off, their candles stay.
UPDATE bucket_feed SET enabled = false, due_at = now() WHERE derived_from IS NOT NULL;
REVOKE UPDATE (derived_from) ON bucket_feed FROM tallydesk_user;
ALTER TABLE bucket_feed DROP COLUMN derived_from, DROP COLUMN outdated, DROP COLUMN quiet;
