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
