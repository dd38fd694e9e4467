ALTER TABLE asset_rate DROP CONSTRAINT rate_is_within_1e_minus_30_and_1e30;
DROP TRIGGER z_derived_is_never_due ON bucket_feed;
DROP FUNCTION bucket_feed_derived_is_never_due();
DROP TRIGGER newest_follows ON bucket_feed;
ALTER TABLE bucket_feed
  DROP CONSTRAINT keep_is_at_most_1000_years,
  DROP CONSTRAINT listed_at_is_between_the_years_1970_and_9000,
  DROP CONSTRAINT reachable_from_is_between_the_years_1970_and_9000,
  DROP CONSTRAINT newest_is_between_the_years_1970_and_9001,
  DROP CONSTRAINT covered_is_between_the_years_1900_and_9001,
  DROP CONSTRAINT quiet_is_between_the_years_1900_and_9999,
  DROP CONSTRAINT derived_from_divides_the_timeframe,
  ADD CONSTRAINT derived_from_divides_the_timeframe CHECK (
    timeframe_id > derived_from AND CASE WHEN timeframe_id = 32767 THEN 1440 ELSE timeframe_id END % derived_from = 0);
