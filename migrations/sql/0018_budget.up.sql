-- One budget of requests for each exchange and address (or account, where the venue counts those), shared by all processes.

CREATE TABLE rate_budget (
  id             int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  exchange_id    int NOT NULL REFERENCES exchange ON DELETE CASCADE,
  account_id     int REFERENCES account ON DELETE CASCADE,
  address        text CHECK (address <> ''),
  configured     numeric NOT NULL CHECK (configured > 0),
  stated         numeric CHECK (stated > 0),
  capacity       numeric NOT NULL GENERATED ALWAYS AS (least(configured, stated)) STORED,
  order_share    numeric NOT NULL DEFAULT 0.1 CHECK (order_share BETWEEN 0 AND 0.9),
  tokens         numeric NOT NULL DEFAULT 0,
  refilled_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
  used           numeric NOT NULL DEFAULT 0,
  minute_ends    timestamptz NOT NULL DEFAULT date_trunc('minute', clock_timestamp()) + interval '1 min',
  blocked_at     timestamptz,
  blocked_until  timestamptz,
  why            text,
  CHECK (num_nonnulls(account_id, address) = 1)
) WITH (fillfactor = 20);
CREATE UNIQUE INDEX rate_budget_address ON rate_budget (exchange_id, address) WHERE account_id IS NULL;
CREATE UNIQUE INDEX rate_budget_account ON rate_budget (account_id) WHERE account_id IS NOT NULL;
CREATE INDEX rate_budget_exchange ON rate_budget (exchange_id);
COMMENT ON TABLE rate_budget IS 'What may still be asked of a venue: one row for each exchange and public address, or for each account where the venue counts those. Shared by all processes on all machines. Units are ccxt''s costs of requests.';
COMMENT ON COLUMN rate_budget.account_id IS 'The account, at a venue that counts what an account asks (Kraken, Bybit). NULL: the venue counts what an address asks.';
COMMENT ON COLUMN rate_budget.address IS 'A name for the public address that requests come from: TALLYDESK_ADDRESS of the machines behind it. NULL where account_id is set.';
COMMENT ON COLUMN rate_budget.configured IS 'Units a minute by ccxt''s rateLimit of this venue, or by the one in the exchange''s options.';
COMMENT ON COLUMN rate_budget.stated IS 'Units a minute as the venue itself says. NULL: it has not said.';
COMMENT ON COLUMN rate_budget.capacity IS 'Units a minute: the lesser of the two.';
COMMENT ON COLUMN rate_budget.order_share IS 'The part of the capacity that only traders may use: candles and other reads stop there. Yours to change.';
COMMENT ON COLUMN rate_budget.tokens IS 'Units that reads may take at refilled_at; below zero after a request that cost more.';
COMMENT ON COLUMN rate_budget.refilled_at IS 'When tokens was last worked out.';
COMMENT ON COLUMN rate_budget.used IS 'Units used in the minute that ends at minute_ends: the venue''s own count where it tells one (other programs at the same address included), else ours.';
COMMENT ON COLUMN rate_budget.minute_ends IS 'When the venue begins to count anew, by the database''s clock.';
COMMENT ON COLUMN rate_budget.blocked_at IS 'When blocked_until was set.';
COMMENT ON COLUMN rate_budget.blocked_until IS 'Until then no process asks the venue anything: set by an answer 429 or 418, or by hand. NULL, or past: nothing holds it.';
COMMENT ON COLUMN rate_budget.why IS 'What blocked_until was set for.';

CREATE FUNCTION rate_budget_blocked() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.blocked_until IS NOT NULL THEN
    NEW.blocked_at := clock_timestamp();
  END IF;
  PERFORM pg_notify('rate_budget', NEW.id::text);
  RETURN NEW;
END $$;
COMMENT ON FUNCTION rate_budget_blocked() IS 'Tells every process that a venue is blocked, or free again.';
CREATE TRIGGER blocked BEFORE UPDATE OF blocked_until ON rate_budget FOR EACH ROW
  WHEN (NEW.blocked_until IS DISTINCT FROM OLD.blocked_until) EXECUTE FUNCTION rate_budget_blocked();

CREATE VIEW budget AS
SELECT e.name AS exchange, a.name AS account, b.address, round(CASE WHEN b.minute_ends > clock_timestamp() THEN b.used ELSE 0 END, 1) AS used,
       round(b.capacity, 1) AS capacity, round(b.capacity * b.order_share, 1) AS for_orders,
       CASE WHEN b.blocked_until > clock_timestamp() THEN b.blocked_until END AS blocked_until,
       CASE WHEN b.blocked_until > clock_timestamp() THEN b.why END AS why
  FROM rate_budget b JOIN exchange e ON e.id = b.exchange_id LEFT JOIN account a ON a.id = b.account_id;
COMMENT ON VIEW budget IS 'What each venue lets us ask, and what was asked of it in this minute, in ccxt''s units.';
COMMENT ON COLUMN budget.exchange IS 'The exchange by our name for it.';
COMMENT ON COLUMN budget.address IS 'The name of the public address that is counted; NULL: the account is.';
COMMENT ON COLUMN budget.why IS 'What it is blocked for.';
COMMENT ON COLUMN budget.used IS 'Used in this minute by the venue''s own count where it tells one, else by ours.';
COMMENT ON COLUMN budget.capacity IS 'What the venue allows in a minute.';
COMMENT ON COLUMN budget.for_orders IS 'The part of it that is kept for orders.';
COMMENT ON COLUMN budget.blocked_until IS 'Until then nothing is asked; NULL: nothing holds it.';

GRANT SELECT ON rate_budget, budget TO tallydesk_reader, tallydesk_user;
GRANT UPDATE (order_share, blocked_until, why) ON rate_budget TO tallydesk_user;
