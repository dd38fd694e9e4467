-- Running it: who is alive, what went wrong, what the venue says we own, how equity went.

CREATE TABLE role (
  name        text PRIMARY KEY,
  kind        text NOT NULL,
  instance    uuid NOT NULL,
  host        text NOT NULL,
  started_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
  beat_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
  stop_at     timestamptz
) WITH (fillfactor = 30);
COMMENT ON TABLE role IS 'The processes of the desk. One is alive if its session advisory lock is held and its beat is fresh; no process id is stored.';
COMMENT ON COLUMN role.kind IS 'scheduler, worker or trader.';
COMMENT ON COLUMN role.host IS 'The machine that it runs on.';
COMMENT ON COLUMN role.started_at IS 'When this instance began.';
COMMENT ON COLUMN role.name IS 'scheduler, worker-1, trader-1, ...: the lock is hashtextextended(''role:'' || name, 0).';
COMMENT ON COLUMN role.instance IS 'New at every start; lanes name it as their owner. Its lock is hashtextextended(instance::text, 0).';
COMMENT ON COLUMN role.stop_at IS 'Somebody asked it to stop: it ends at its next beat, as on SIGTERM. Starting it clears this.';
COMMENT ON COLUMN role.beat_at IS 'Written every few seconds over the connection that holds the locks.';

CREATE TYPE severity AS ENUM ('notice', 'warning', 'critical');

CREATE TABLE incident (
  id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at           timestamptz NOT NULL DEFAULT clock_timestamp(),
  severity     severity NOT NULL,
  kind         text NOT NULL,
  message      text NOT NULL,
  account_id   smallint REFERENCES account,
  order_id     bigint REFERENCES "order",
  resolved_at  timestamptz
);
CREATE INDEX incident_open ON incident (at) WHERE resolved_at IS NULL;
COMMENT ON TABLE incident IS 'What a person should look at: late fills, over-fills, orders that stay in doubt. Set resolved_at when it is dealt with.';
COMMENT ON COLUMN incident.at IS 'When it was seen.';
COMMENT ON COLUMN incident.severity IS 'critical: money or orders may be wrong; warning: soon; notice: good to know.';
COMMENT ON COLUMN incident.kind IS 'What sort of thing, in a few fixed words.';
COMMENT ON COLUMN incident.message IS 'What happened, for a person.';
COMMENT ON COLUMN incident.resolved_at IS 'When a person dealt with it; NULL: open.';

CREATE TABLE account_balance (
  account_id  smallint NOT NULL REFERENCES account,
  asset_id    smallint NOT NULL REFERENCES asset,
  total       amount NOT NULL,
  free        amount NOT NULL,
  used        amount NOT NULL,
  ledger      amount NOT NULL,
  settled     boolean NOT NULL,
  read_at     timestamptz NOT NULL,
  PRIMARY KEY (account_id, asset_id)
);
COMMENT ON TABLE account_balance IS 'What the venue last said we own, beside what the ledger said then. A venue that does not answer leaves the last value standing.';
COMMENT ON COLUMN account_balance.total IS 'As the venue said: free and used.';
COMMENT ON COLUMN account_balance.free IS 'As the venue said: not in its open orders.';
COMMENT ON COLUMN account_balance.used IS 'As the venue said: in its open orders.';
COMMENT ON COLUMN account_balance.read_at IS 'When the venue was read.';
COMMENT ON COLUMN account_balance.ledger IS 'What the ledger had at the venue at that moment: strategies, unallocated, external, suspense, in transit.';
COMMENT ON COLUMN account_balance.settled IS 'False: an order was in flight while the venue was read, so a difference says nothing yet.';

CREATE TABLE equity_point (
  strategy_id  int NOT NULL REFERENCES strategy,
  at           timestamptz NOT NULL DEFAULT clock_timestamp(),
  equity       amount NOT NULL,
  unit_value   numeric NOT NULL,
  PRIMARY KEY (strategy_id, at)
);
COMMENT ON TABLE equity_point IS 'How a strategy''s worth went, in its unit: written by a job.';
COMMENT ON COLUMN equity_point.at IS 'When it was sampled.';
COMMENT ON COLUMN equity_point.equity IS 'The strategy''s worth then, in its unit.';
COMMENT ON COLUMN equity_point.unit_value IS 'Equity per unit bought by deposits: 1 at the start, so it shows the strategy and not the money that came and went.';

CREATE TABLE drawdown (
  strategy_id   int PRIMARY KEY REFERENCES strategy,
  peak          numeric NOT NULL,
  max_drawdown  numeric NOT NULL
) WITH (fillfactor = 30);
COMMENT ON TABLE drawdown IS 'The highest unit value so far and the deepest fall from a peak, kept from equity_point.';
COMMENT ON COLUMN drawdown.peak IS 'The highest unit value so far, at least 1.';
COMMENT ON COLUMN drawdown.max_drawdown IS 'A share: 0.25 is a fall of 25 % from a peak.';

CREATE FUNCTION equity_point_insert() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
  INSERT INTO drawdown AS d (strategy_id, peak, max_drawdown) VALUES (NEW.strategy_id, greatest(1, NEW.unit_value), greatest(0, 1 - NEW.unit_value))
    ON CONFLICT (strategy_id) DO UPDATE SET peak = greatest(d.peak, NEW.unit_value),
      max_drawdown = greatest(d.max_drawdown, 1 - NEW.unit_value / greatest(d.peak, NEW.unit_value));
  RETURN NULL;
END $$;
CREATE TRIGGER equity_point_insert AFTER INSERT ON equity_point FOR EACH ROW EXECUTE FUNCTION equity_point_insert();
CREATE TRIGGER follows BEFORE INSERT OR UPDATE OR DELETE ON drawdown FOR EACH STATEMENT EXECUTE FUNCTION only_from_triggers('it follows equity_point');
CREATE TRIGGER kept BEFORE TRUNCATE ON drawdown FOR EACH STATEMENT EXECUTE FUNCTION refuse('it follows equity_point');
CREATE TRIGGER written BEFORE INSERT OR UPDATE OR DELETE ON equity_point FOR EACH STATEMENT
  EXECUTE FUNCTION only_from_processes('a job writes how equity went');
CREATE TRIGGER kept BEFORE TRUNCATE ON equity_point FOR EACH STATEMENT EXECUTE FUNCTION refuse('a job writes how equity went');
CREATE TRIGGER written BEFORE INSERT OR UPDATE OR DELETE ON account_balance FOR EACH STATEMENT
  EXECUTE FUNCTION only_from_processes('it is what the venue said; a job reads it again');
CREATE TRIGGER kept BEFORE TRUNCATE ON account_balance FOR EACH STATEMENT EXECUTE FUNCTION refuse('it is what the venue said; a job reads it again');
