-- Reconciliation: other people's trades and orders on our accounts, and what the venue has that the books do not.

ALTER TYPE fill_source ADD VALUE 'reconciliation';
ALTER TYPE adjustment_kind ADD VALUE 'transfer';
COMMENT ON COLUMN fill.source IS 'How we learned of it: the answer to our request, a look-up of an order in doubt, the regular poll, or reconciliation, which finds what the others missed.';
COMMENT ON COLUMN adjustment.kind IS 'opening: what was there when the account was first read (becomes unallocated); transfer: came or went at the venue later (unallocated too); external: other people''s doing; suspense: unexplained.';

ALTER TABLE account
  ADD COLUMN opened_at timestamptz,
  ADD COLUMN drift_tolerated numeric NOT NULL DEFAULT 0.000001
    CONSTRAINT drift_tolerated_is_a_share CHECK (drift_tolerated >= 0 AND drift_tolerated < 1),
  ADD COLUMN drift_dust amount NOT NULL DEFAULT 0.00000001 CONSTRAINT drift_dust_is_not_negative CHECK (drift_dust >= 0),
  ADD COLUMN drift_halts numeric NOT NULL DEFAULT 0.10
    CONSTRAINT drift_halts_is_a_share_above_zero CHECK (drift_halts > 0 AND drift_halts <= 1),
  ADD CONSTRAINT drift_halts_is_above_drift_tolerated CHECK (drift_halts > drift_tolerated);
COMMENT ON COLUMN account.opened_at IS 'When the venue was first read with nothing in flight: other people''s trades before it are in the opening.';
COMMENT ON COLUMN account.drift_tolerated IS 'Share of the larger of venue and ledger that a difference may have without being booked.';
COMMENT ON COLUMN account.drift_dust IS 'Quantity of any asset that a difference may have without being booked.';
COMMENT ON COLUMN account.drift_halts IS 'Share of the larger of venue and ledger from which a difference halts the account, unless money simply came in.';
UPDATE account a SET opened_at = coalesce(
  (SELECT min(created_at) FROM adjustment WHERE account_id = a.id AND kind::text = 'opening'),
  (SELECT min(read_at) FROM account_balance WHERE account_id = a.id));

CREATE FUNCTION drift_verdict(venue numeric, ledger numeric, tolerated numeric, dust numeric, halts numeric) RETURNS text LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE WHEN venue = ledger THEN 'agrees'
              WHEN abs(venue - ledger) <= greatest(dust, tolerated * greatest(abs(venue), abs(ledger))) THEN 'tolerated'
              WHEN abs(venue - ledger) >= halts * greatest(abs(venue), abs(ledger)) THEN 'large'
              ELSE 'drift' END $$;
COMMENT ON FUNCTION drift_verdict IS 'How a difference between venue and ledger is judged by an account''s thresholds: agrees, tolerated, drift or large.';

CREATE TABLE execution_read (
  account_id  smallint NOT NULL REFERENCES account,
  market_id   int NOT NULL REFERENCES market,
  read_until  timestamptz NOT NULL,
  read_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (account_id, market_id)
) WITH (fillfactor = 30);
COMMENT ON TABLE execution_read IS 'How far reconciliation has read the venue''s executions, market by market.';
COMMENT ON COLUMN execution_read.read_until IS 'Every execution before this is booked; the next round reads from a little earlier.';
COMMENT ON COLUMN execution_read.read_at IS 'When the venue was read.';

CREATE TABLE external_fill (
  id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  account_id      smallint NOT NULL REFERENCES account,
  market_id       int NOT NULL REFERENCES market,
  trade_id        text NOT NULL,
  side            order_side NOT NULL,
  venue_order_id  text NOT NULL,
  traded_at       timestamptz NOT NULL,
  quantity        positive_amount NOT NULL,
  price           positive_amount NOT NULL,
  quote           amount NOT NULL,
  fee             amount NOT NULL,
  fee_asset_id    smallint REFERENCES asset,
  liquidity       liquidity,
  booked_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
  CONSTRAINT a_foreign_trade_is_booked_once UNIQUE (account_id, market_id, trade_id, side),
  CONSTRAINT a_fee_names_its_asset CHECK (fee = 0 OR fee_asset_id IS NOT NULL)
);
COMMENT ON TABLE external_fill IS 'An execution on our account that no order of ours explains: somebody trades there too. A fact of the venue; never touches a strategy.';
COMMENT ON COLUMN external_fill.trade_id IS 'The venue''s number of the trade.';
COMMENT ON COLUMN external_fill.side IS 'That of the order which is not ours.';
COMMENT ON COLUMN external_fill.venue_order_id IS 'The venue''s number of that order.';
COMMENT ON COLUMN external_fill.traded_at IS 'The venue''s time of the trade.';
COMMENT ON COLUMN external_fill.quantity IS 'Base traded.';
COMMENT ON COLUMN external_fill.price IS 'In quote for one base.';
COMMENT ON COLUMN external_fill.quote IS 'quantity x price.';
COMMENT ON COLUMN external_fill.fee IS 'In fee_asset; negative is a rebate.';
COMMENT ON COLUMN external_fill.liquidity IS 'maker: it rested in the book; taker: it took from it; NULL: the venue did not say.';
COMMENT ON COLUMN external_fill.booked_at IS 'When we booked it.';

CREATE TABLE external_order (
  account_id       smallint NOT NULL REFERENCES account,
  market_id        int NOT NULL REFERENCES market,
  venue_order_id   text NOT NULL,
  client_order_id  text,
  side             order_side,
  type             text,
  price            positive_amount,
  quantity         positive_amount,
  filled_quantity  amount,
  first_seen_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
  seen_at          timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (account_id, market_id, venue_order_id)
);
COMMENT ON TABLE external_order IS 'Open orders on our accounts that are not ours, as the venue last listed them. Never canceled, never changed; a row goes when its order does.';
COMMENT ON COLUMN external_order.venue_order_id IS 'The venue''s number of the order.';
COMMENT ON COLUMN external_order.client_order_id IS 'The name that whoever placed it gave it.';
COMMENT ON COLUMN external_order.side IS 'buy or sell; NULL: the venue did not say.';
COMMENT ON COLUMN external_order.type IS 'As the venue names it; NULL: it did not say.';
COMMENT ON COLUMN external_order.price IS 'Its limit, in quote for one base.';
COMMENT ON COLUMN external_order.quantity IS 'Base that it asks for.';
COMMENT ON COLUMN external_order.filled_quantity IS 'How much of that has traded.';
COMMENT ON COLUMN external_order.first_seen_at IS 'When we first saw it.';
COMMENT ON COLUMN external_order.seen_at IS 'When the venue last listed it.';

CREATE TABLE account_drift (
  account_id     smallint NOT NULL REFERENCES account,
  asset_id       smallint NOT NULL REFERENCES asset,
  drift          amount NOT NULL CONSTRAINT drift_is_not_zero CHECK (drift <> 0),
  first_seen_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
  seen_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
  halted_at      timestamptz,
  PRIMARY KEY (account_id, asset_id)
);
COMMENT ON TABLE account_drift IS 'Differences between venue and ledger that reconciliation has seen and not booked: seen once, tolerated, or so large that the account was halted. A row goes with its difference.';
COMMENT ON COLUMN account_drift.drift IS 'venue - ledger; another value begins anew.';
COMMENT ON COLUMN account_drift.first_seen_at IS 'When a settled reading first gave this value; it counts once a later one gives it again.';
COMMENT ON COLUMN account_drift.seen_at IS 'When a settled reading last gave it.';
COMMENT ON COLUMN account_drift.halted_at IS 'When it halted the account. Setting account.halted to false accepts it: the next round books it.';

ALTER TABLE ledger ADD COLUMN external_fill_id bigint REFERENCES external_fill;
ALTER TABLE ledger DROP CONSTRAINT it_has_a_cause;
ALTER TABLE ledger ADD CONSTRAINT it_has_a_cause CHECK (num_nonnulls(order_id, adjustment_id, external_fill_id) = 1);
CREATE INDEX ledger_external_fill ON ledger (external_fill_id) WHERE external_fill_id IS NOT NULL;

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON external_fill FOR EACH STATEMENT EXECUTE FUNCTION refuse('a fill is a fact of the venue');
CREATE TRIGGER written BEFORE INSERT ON external_fill FOR EACH STATEMENT EXECUTE FUNCTION only_from_processes('fills come from the venue');
CREATE TRIGGER written BEFORE INSERT OR UPDATE OR DELETE ON external_order FOR EACH STATEMENT
  EXECUTE FUNCTION only_from_processes('it is what the venue lists; a job reads it again');
CREATE TRIGGER written BEFORE INSERT OR UPDATE OR DELETE ON execution_read FOR EACH STATEMENT
  EXECUTE FUNCTION only_from_processes('reconciliation notes how far it has read');
CREATE TRIGGER written BEFORE INSERT OR UPDATE OR DELETE ON account_drift FOR EACH STATEMENT
  EXECUTE FUNCTION only_from_processes('reconciliation notes what it sees');
CREATE TRIGGER kept BEFORE TRUNCATE ON external_order FOR EACH STATEMENT EXECUTE FUNCTION refuse('it is what the venue lists; a job reads it again');
CREATE TRIGGER kept BEFORE TRUNCATE ON execution_read FOR EACH STATEMENT EXECUTE FUNCTION refuse('reconciliation notes how far it has read');
CREATE TRIGGER kept BEFORE TRUNCATE ON account_drift FOR EACH STATEMENT EXECUTE FUNCTION refuse('reconciliation notes what it sees');

CREATE FUNCTION external_fill_insert() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.quote := NEW.quantity * NEW.price;
  RETURN NEW;
END $$;
CREATE TRIGGER external_fill_insert BEFORE INSERT ON external_fill FOR EACH ROW EXECUTE FUNCTION external_fill_insert();

CREATE FUNCTION external_fill_post() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
  INSERT INTO ledger (kind, from_id, to_id, asset_id, quantity, external_fill_id)
    SELECT x.kind::ledger_kind, CASE WHEN x.delta < 0 THEN l.id ELSE w.id END, CASE WHEN x.delta < 0 THEN w.id ELSE l.id END, x.asset_id, abs(x.delta), n.id
      FROM new_rows n JOIN market m ON m.id = n.market_id JOIN ledger_account l ON l.account_id = n.account_id AND l.kind = 'external'
     CROSS JOIN LATERAL (VALUES ('trade', 'venue', m.base_id, CASE n.side WHEN 'buy' THEN n.quantity ELSE -n.quantity END),
                                ('trade', 'venue', m.quote_id, CASE n.side WHEN 'buy' THEN -n.quote ELSE n.quote END),
                                ('fee', 'fees', n.fee_asset_id, -n.fee)) x (kind, other, asset_id, delta)
      JOIN ledger_account w ON w.account_id = n.account_id AND w.kind = x.other::ledger_account_kind
     WHERE round(x.delta, 18) <> 0 ORDER BY n.id, x.asset_id;
  RETURN NULL;
END $$;
COMMENT ON FUNCTION external_fill_post IS 'Trigger: other people''s trades post to the ledger account external, so that ledger = venue, and to nothing else.';
CREATE TRIGGER external_fill_post AFTER INSERT ON external_fill REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION external_fill_post();
REVOKE EXECUTE ON FUNCTION external_fill_post() FROM PUBLIC;

CREATE OR REPLACE FUNCTION adjustment_post() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
  INSERT INTO ledger (kind, from_id, to_id, asset_id, quantity, adjustment_id)
    SELECT 'adjustment', CASE WHEN n.quantity > 0 THEN f.id ELSE t.id END, CASE WHEN n.quantity > 0 THEN t.id ELSE f.id END, n.asset_id, abs(n.quantity), n.id
      FROM new_rows n JOIN ledger_account f ON f.account_id = n.account_id AND f.kind = 'funding'
      JOIN ledger_account t ON t.account_id = n.account_id
       AND t.kind = (CASE WHEN n.kind::text IN ('opening', 'transfer') THEN 'unallocated' ELSE n.kind::text END)::ledger_account_kind
     ORDER BY n.id;
  RETURN NULL;
END $$;

DROP VIEW reconciliation;
CREATE VIEW reconciliation AS
  SELECT c.name AS account, a.code AS asset,
         CASE WHEN v.total IS NULL THEN 'never read'
              WHEN NOT v.settled THEN 'unsettled: orders are in flight'
              WHEN j.verdict IN ('agrees', 'tolerated') THEN j.verdict
              WHEN d.halted_at IS NOT NULL AND c.halted THEN 'halted: to accept it: UPDATE account SET halted = false'
              ELSE j.verdict || ': not confirmed yet' END AS verdict,
         trim_scale(v.total) AS venue, trim_scale(v.ledger) AS ledger,
         CASE WHEN v.settled THEN trim_scale(v.total - v.ledger) END AS drift,
         trim_scale(coalesce(b.strategies, 0)) AS strategies, trim_scale(coalesce(b.unallocated, 0)) AS unallocated,
         trim_scale(coalesce(b.external, 0)) AS external, trim_scale(coalesce(b.suspense, 0)) AS suspense, v.read_at
    FROM (SELECT l.account_id, b.asset_id, sum(b.total) FILTER (WHERE l.kind = 'strategy') AS strategies, sum(b.total) FILTER (WHERE l.kind = 'unallocated') AS unallocated,
                 sum(b.total) FILTER (WHERE l.kind = 'external') AS external, sum(b.total) FILTER (WHERE l.kind = 'suspense') AS suspense
            FROM balance b JOIN ledger_account l ON l.id = b.ledger_account_id GROUP BY 1, 2) b
    FULL JOIN account_balance v ON v.account_id = b.account_id AND v.asset_id = b.asset_id
    JOIN account c ON c.id = coalesce(v.account_id, b.account_id)
    JOIN asset a ON a.id = coalesce(v.asset_id, b.asset_id)
    LEFT JOIN account_drift d ON d.account_id = c.id AND d.asset_id = a.id
    CROSS JOIN LATERAL (SELECT drift_verdict(v.total, v.ledger, c.drift_tolerated, c.drift_dust, c.drift_halts) AS verdict) j
   WHERE coalesce(v.total, 0) <> 0 OR coalesce(v.ledger, 0) <> 0 OR coalesce(b.strategies, 0) <> 0 OR coalesce(b.unallocated, 0) <> 0
      OR coalesce(b.external, 0) <> 0 OR coalesce(b.suspense, 0) <> 0;
COMMENT ON VIEW reconciliation IS 'The venue''s balances beside the ledger. venue NULL: never read.';
COMMENT ON COLUMN reconciliation.verdict IS 'agrees, tolerated (below the account''s thresholds), drift or large (seen, not booked yet), halted, unsettled, never read.';
COMMENT ON COLUMN reconciliation.venue IS 'What the venue said it has of ours.';
COMMENT ON COLUMN reconciliation.ledger IS 'What our books had then.';
COMMENT ON COLUMN reconciliation.read_at IS 'When the venue was read.';
COMMENT ON COLUMN reconciliation.drift IS 'venue - ledger, both at read_at. NULL: an order was in flight then, or the venue was never read.';
COMMENT ON COLUMN reconciliation.strategies IS 'What strategies have of it now.';
COMMENT ON COLUMN reconciliation.unallocated IS 'What nobody was given yet; below zero: more was given out than was ever there.';
COMMENT ON COLUMN reconciliation.external IS 'What other people''s trades on the account brought (+) or took (-).';
COMMENT ON COLUMN reconciliation.suspense IS 'What came (+) or is missing (-) and nothing explains.';

CREATE VIEW external AS
  SELECT c.name AS account, 'open order' AS what, e.name || ':' || m.symbol AS market, x.side::text AS side, trim_scale(x.quantity) AS quantity,
         trim_scale(x.price) AS price, x.first_seen_at AS at, x.venue_order_id, x.seen_at
    FROM external_order x JOIN account c ON c.id = x.account_id JOIN market m ON m.id = x.market_id JOIN exchange e ON e.id = m.exchange_id
  UNION ALL
  SELECT c.name, 'fill', e.name || ':' || m.symbol, x.side::text, trim_scale(x.quantity), trim_scale(x.price), x.traded_at, x.venue_order_id, x.booked_at
    FROM external_fill x JOIN account c ON c.id = x.account_id JOIN market m ON m.id = x.market_id JOIN exchange e ON e.id = m.exchange_id;
COMMENT ON VIEW external IS 'What other people do on our accounts: their open orders, and their fills.';
COMMENT ON COLUMN external.what IS 'open order or fill.';
COMMENT ON COLUMN external.side IS 'buy or sell.';
COMMENT ON COLUMN external.quantity IS 'Base asked for, or traded.';
COMMENT ON COLUMN external.price IS 'In quote for one base.';
COMMENT ON COLUMN external.at IS 'An order: when we first saw it; a fill: when it traded.';
COMMENT ON COLUMN external.venue_order_id IS 'The venue''s number of the order.';
COMMENT ON COLUMN external.seen_at IS 'An order: when the venue last listed it; a fill: when we booked it.';

CREATE OR REPLACE VIEW invariant_violation AS
  SELECT 'balance is the sum of its ledger rows' AS rule, format('ledger account %s, asset %s', k.id, k.asset_id) AS what, b.total::text AS kept, f.total::text AS facts
    FROM balance b FULL JOIN (
      SELECT x.id, x.asset_id, sum(x.delta) AS total
        FROM (SELECT from_id AS id, asset_id, -quantity AS delta FROM ledger UNION ALL SELECT to_id, asset_id, quantity FROM ledger) x
        JOIN ledger_account l ON l.id = x.id AND l.kind NOT IN ('funding', 'venue', 'fees') GROUP BY 1, 2) f ON f.id = b.ledger_account_id AND f.asset_id = b.asset_id
    CROSS JOIN LATERAL (SELECT coalesce(b.ledger_account_id, f.id) AS id, coalesce(b.asset_id, f.asset_id) AS asset_id) k
   WHERE coalesce(b.total, 0) <> coalesce(f.total, 0)
  UNION ALL
  SELECT 'held is the sum of holds', format('ledger account %s, asset %s', b.ledger_account_id, b.asset_id), b.held::text, coalesce(h.quantity, 0)::text
    FROM balance b LEFT JOIN (SELECT ledger_account_id, asset_id, sum(quantity) AS quantity FROM hold GROUP BY 1, 2) h USING (ledger_account_id, asset_id)
   WHERE b.held <> coalesce(h.quantity, 0)
  UNION ALL
  SELECT 'a strategy holds and spends no more than it has', format('%s, %s', s.name, a.code), (b.total - b.held)::text, coalesce(f.fees, 0)::text
    FROM balance b JOIN ledger_account l ON l.id = b.ledger_account_id JOIN strategy s ON s.id = l.strategy_id JOIN asset a ON a.id = b.asset_id
    LEFT JOIN LATERAL (SELECT sum(g.quantity) AS fees FROM ledger g WHERE b.total < b.held AND g.kind = 'fee' AND g.from_id = l.id AND g.asset_id = b.asset_id) f ON true
   WHERE b.total + coalesce(f.fees, 0) < b.held
  UNION ALL
  SELECT 'only orders in flight or open hold funds', format('order %s', o.id), h.quantity::text, o.status::text
    FROM hold h JOIN "order" o ON o.id = h.order_id WHERE o.status NOT IN ('submitted', 'accepted', 'partially_filled', 'pending_cancel')
  UNION ALL
  SELECT 'an order in flight or open holds funds', format('order %s', o.id), NULL, o.status::text
    FROM "order" o LEFT JOIN hold h ON h.order_id = o.id
   WHERE o.status IN ('submitted', 'accepted', 'partially_filled', 'pending_cancel') AND h.order_id IS NULL
  UNION ALL
  SELECT 'what an order filled is the sum of its fills', format('order %s', o.id), format('%s for %s', o.filled_quantity, o.filled_quote), format('%s for %s', f.quantity, f.quote)
    FROM "order" o LEFT JOIN (SELECT order_id, sum(quantity) AS quantity, sum(quote) AS quote FROM fill GROUP BY 1) f ON f.order_id = o.id
   WHERE (o.filled_quantity, o.filled_quote) <> (coalesce(f.quantity, 0), coalesce(f.quote, 0))
  UNION ALL
  SELECT 'every fill is posted', format('fill %s', f.id), NULL, 'no ledger row'
    FROM fill f WHERE NOT EXISTS (SELECT FROM ledger l WHERE l.order_id = f.order_id AND l.fill_id = f.id)
  UNION ALL
  SELECT 'every deposit and withdrawal is posted', format('order %s', o.id), NULL, 'no ledger row'
    FROM "order" o WHERE o.status = 'posted' AND NOT EXISTS (SELECT FROM ledger l WHERE l.order_id = o.id)
  UNION ALL
  SELECT 'every step has its event', format('order %s', o.id), o.status::text, e.to_status::text
    FROM "order" o LEFT JOIN LATERAL (SELECT to_status FROM order_event WHERE order_id = o.id ORDER BY id DESC LIMIT 1) e ON true
   WHERE o.status IS DISTINCT FROM e.to_status
  UNION ALL
  SELECT 'what a position realised is the sum of its orders', format('strategy %s, market %s', p.strategy_id, p.market_id), p.realised::text, o.realised::text
    FROM position p JOIN (SELECT strategy_id, market_id, sum(realised) AS realised FROM "order" WHERE market_id IS NOT NULL GROUP BY 1, 2) o USING (strategy_id, market_id)
   WHERE p.realised <> o.realised
  UNION ALL
  SELECT 'every foreign fill is posted', format('external fill %s', f.id), NULL, 'no ledger row'
    FROM external_fill f WHERE NOT EXISTS (SELECT FROM ledger l WHERE l.external_fill_id = f.id)
  UNION ALL
  SELECT 'foreign fills post to external alone', format('ledger %s', l.id), f.kind::text, t.kind::text
    FROM ledger l JOIN ledger_account f ON f.id = l.from_id JOIN ledger_account t ON t.id = l.to_id
   WHERE l.external_fill_id IS NOT NULL AND (f.account_id <> t.account_id OR NOT (f.kind = 'external' AND t.kind IN ('venue', 'fees') OR t.kind = 'external' AND f.kind IN ('venue', 'fees')))
  UNION ALL
  SELECT 'a trade is ours or foreign, not both', format('fill %s', f.id), format('external fill %s', x.id), f.trade_id
    FROM external_fill x JOIN fill f ON (f.account_id, f.market_id, f.trade_id, f.side) = (x.account_id, x.market_id, x.trade_id, x.side);

GRANT SELECT ON execution_read, external_fill, external_order, account_drift, reconciliation, external TO tallydesk_reader, tallydesk_user;

-- Once an account was read, what strategies are given must be there: else one would spend another's money.
CREATE FUNCTION order_unallocated() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  short record;
BEGIN
  SELECT c.name, a.code, b.total, sum(n.quantity) AS asked INTO short FROM new_rows n JOIN account c ON c.id = n.account_id AND c.opened_at IS NOT NULL
    JOIN asset a ON a.id = n.asset_id JOIN ledger_account l ON l.account_id = c.id AND l.kind = 'unallocated'
    JOIN balance b ON b.ledger_account_id = l.id AND b.asset_id = n.asset_id
   WHERE n.type = 'deposit' AND b.total < 0 GROUP BY 1, 2, 3 LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION 'account % has % % that no strategy was given yet, not %', short.name, trim_scale(greatest(short.total + short.asked, 0)), short.code,
      trim_scale(short.asked) USING ERRCODE = 'check_violation', HINT = 'Pay in at the venue and wait until select * from reconciliation shows it as unallocated, or withdraw from another strategy.';
  END IF;
  RETURN NULL;
END $$;
COMMENT ON FUNCTION order_unallocated IS 'Trigger: a deposit gives out what is at the venue and nobody''s yet. It runs after order_post, by its name.';
REVOKE EXECUTE ON FUNCTION order_unallocated() FROM PUBLIC;
CREATE TRIGGER order_unallocated AFTER INSERT ON "order" REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION order_unallocated();
