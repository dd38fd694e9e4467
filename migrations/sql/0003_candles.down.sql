DROP TABLE bucket_feed, bucket;
DROP TYPE feed_status, bucket_source;
