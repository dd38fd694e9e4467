DROP VIEW feeds;
DROP TABLE bucket_refusal;
DROP TRIGGER a_feed_that_is_changed_is_due ON bucket_feed;
DROP TRIGGER a_feed_is_at_the_exchange_of_its_market ON bucket_feed;
DROP FUNCTION bucket_feed_obeys();
DROP FUNCTION bucket_feed_exchange();
REVOKE UPDATE (keep) ON bucket_feed FROM tallydesk_user;
UPDATE bucket_feed SET collect_since = coalesce(listed_at, lower(covered), newest, clock_timestamp()) WHERE collect_since IS NULL;
ALTER TABLE bucket_feed
  DROP COLUMN exchange_id,
  DROP COLUMN listed_at,
  DROP COLUMN reachable_from,
  DROP COLUMN keep,
  DROP COLUMN refused,
  DROP COLUMN due_at,
  DROP COLUMN backfill_at,
  DROP COLUMN failures,
  DROP COLUMN leased_by,
  DROP COLUMN lease_until,
  ALTER COLUMN collect_since SET NOT NULL,
  ADD COLUMN oldest timestamptz;
COMMENT ON COLUMN bucket_feed.collect_since IS 'Candles that open before this are not fetched.';
COMMENT ON COLUMN bucket_feed.oldest IS 'From where on the history has been asked for without a hole (an opening time); moving collect_since back fetches the part before.';
UPDATE bucket_feed SET oldest = (SELECT lower(r) FROM unnest(covered) r ORDER BY 1 DESC LIMIT 1);
