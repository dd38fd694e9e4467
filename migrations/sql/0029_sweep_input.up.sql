-- The candles of a sweep's inputs must stay what they are while it runs, as its own must.

CREATE TABLE sweep_input (
  sweep_id      int NOT NULL REFERENCES sweep ON DELETE CASCADE,
  market_id     int NOT NULL REFERENCES market,
  timeframe_id  smallint NOT NULL REFERENCES timeframe,
  digest        text NOT NULL,
  PRIMARY KEY (sweep_id, market_id, timeframe_id)
);
COMMENT ON TABLE sweep_input IS 'The candles of inputs that trials of a sweep were run on, up to its end: whoever reads others later ends the sweep.';
COMMENT ON COLUMN sweep_input.digest IS 'A hash of them and of the gaps that the class does not decide across, by whoever read them first.';
CREATE TRIGGER written BEFORE INSERT OR UPDATE OR DELETE ON sweep_input FOR EACH STATEMENT
  EXECUTE FUNCTION only_from_processes('it belongs to its sweep');
GRANT SELECT ON sweep_input TO tallydesk_reader, tallydesk_user;
