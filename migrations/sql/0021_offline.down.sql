DROP TRIGGER offline ON exchange;
DROP FUNCTION exchange_goes_offline();
DROP TRIGGER offline ON bucket_feed;
DROP FUNCTION offline_is_not_fetched();
DROP TRIGGER offline ON account;
DROP FUNCTION offline_has_no_accounts();
ALTER TABLE exchange DROP COLUMN offline;
