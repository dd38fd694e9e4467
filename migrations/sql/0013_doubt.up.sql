-- Doubt as rows (attempts, look-ups, alerts), orders that replace others, and exits that go on with what is left.
-- `waiting` cannot be named in the transaction that adds it: `status < 'queued'` says it where a statement here is run at once.

CREATE TYPE look_up_answer AS ENUM ('found', 'absent', 'failed');

CREATE TABLE look_up (
  id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  order_id        bigint NOT NULL REFERENCES "order",
  attempt         int NOT NULL,
  at              timestamptz NOT NULL DEFAULT clock_timestamp(),
  trader          uuid,
  answer          look_up_answer NOT NULL,
  after_deadline  boolean NOT NULL,
  detail          text
);
CREATE INDEX look_up_order ON look_up (order_id, attempt, id);
COMMENT ON TABLE look_up IS 'Every time that an order in doubt was looked up at the venue, and what the venue said. The evidence that settles it.';
COMMENT ON COLUMN look_up.attempt IS 'Which attempt of the order was in doubt.';
COMMENT ON COLUMN look_up.at IS 'When the answer was written down.';
COMMENT ON COLUMN look_up.trader IS 'The instance (role.instance) of the trader that asked. NULL: nobody did, the answer to the request itself said that the venue has it ("duplicate id").';
COMMENT ON COLUMN look_up.answer IS 'found: the venue has it, and no absence counts any more; absent: it says that it has not; failed: no answer, which proves nothing.';
COMMENT ON COLUMN look_up.after_deadline IS 'Whether the request could not arrive any more by then, by the venue''s own clock: only so "absent" is evidence.';
COMMENT ON COLUMN look_up.detail IS 'The venue''s words, or what followed from them.';
CREATE TRIGGER written BEFORE INSERT ON look_up FOR EACH STATEMENT EXECUTE FUNCTION only_from_processes('a trader writes what the venue said');
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON look_up FOR EACH STATEMENT EXECUTE FUNCTION refuse('it is evidence');

CREATE TABLE attempt_in_doubt (
  order_id          bigint NOT NULL REFERENCES "order",
  attempt           int NOT NULL,
  at                timestamptz NOT NULL DEFAULT clock_timestamp(),
  submitted_at      timestamptz NOT NULL,
  receive_deadline  timestamptz NOT NULL,
  never_sent        boolean NOT NULL,
  answer            text,
  PRIMARY KEY (order_id, attempt)
);
COMMENT ON TABLE attempt_in_doubt IS 'One row for each attempt whose answer proved nothing, or that was never sent. An order that is answered at once has none.';
COMMENT ON COLUMN attempt_in_doubt.attempt IS 'Which attempt: 1 is the first.';
COMMENT ON COLUMN attempt_in_doubt.at IS 'When that was written down.';
COMMENT ON COLUMN attempt_in_doubt.submitted_at IS 'The time stamp that its request was signed with.';
COMMENT ON COLUMN attempt_in_doubt.receive_deadline IS 'After this the venue refused the request.';
COMMENT ON COLUMN attempt_in_doubt.never_sent IS 'True: no byte of it left this machine, so nothing need be looked up.';
COMMENT ON COLUMN attempt_in_doubt.answer IS 'What came back in place of a proof: an error, "duplicate id" (which proves that it is there), or that the trader was gone.';
CREATE TRIGGER follows BEFORE INSERT ON attempt_in_doubt FOR EACH STATEMENT EXECUTE FUNCTION only_from_triggers('it follows the orders');
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON attempt_in_doubt FOR EACH STATEMENT EXECUTE FUNCTION refuse('it is append-only');

-- Only an order without an answer comes here: the condition of the trigger keeps it off the path of the others.
CREATE FUNCTION order_doubt() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
  IF NEW.attempt > OLD.attempt THEN
    INSERT INTO attempt_in_doubt (order_id, attempt, submitted_at, receive_deadline, never_sent, answer)
      VALUES (OLD.id, OLD.attempt, OLD.submitted_at, OLD.receive_deadline, true, 'it had waited for too long when its turn came: its request was stamped anew')
      ON CONFLICT DO NOTHING;
  ELSE  -- a trader that has sent it leaves it in doubt under its own fence; one that finds it so has a new one
    INSERT INTO attempt_in_doubt (order_id, attempt, submitted_at, receive_deadline, never_sent, answer)
      VALUES (NEW.id, NEW.attempt, NEW.submitted_at, NEW.receive_deadline, NEW.absences >= 2,
              CASE WHEN NEW.fence = OLD.fence THEN NEW.reason ELSE 'the trader that sent it is gone' END)
      ON CONFLICT DO NOTHING;
  END IF;
  RETURN NULL;
END $$;
COMMENT ON FUNCTION order_doubt IS 'Trigger: an attempt that ended without proof becomes a row.';
CREATE TRIGGER order_doubt AFTER UPDATE ON "order" FOR EACH ROW
  WHEN (OLD.attempt > 0 AND (NEW.attempt > OLD.attempt OR (NEW.status = 'submitted' AND NEW.next_look_at IS DISTINCT FROM OLD.next_look_at)))
  EXECUTE FUNCTION order_doubt();

CREATE FUNCTION order_evidence(p_order bigint) RETURNS text LANGUAGE sql STABLE SET search_path = public, pg_temp AS $$
  SELECT concat_ws('; ', format('attempt %s', o.attempt) || CASE WHEN d.never_sent THEN ' was never sent' ELSE '' END || coalesce(': ' || d.answer, ''),
           CASE WHEN l.looks = 0 THEN 'not looked up yet'
                ELSE format('looked up %s times: %s failed, %s absent before the receive deadline, %s after it (2 are proof)', l.looks, l.failed, l.early, l.late) END,
           (SELECT format('last answer at %s UTC: %s', to_char(x.at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS'), x.answer) || coalesce(', ' || x.detail, '')
              FROM look_up x WHERE x.order_id = o.id AND x.attempt = o.attempt ORDER BY x.id DESC LIMIT 1))
    FROM "order" o
    LEFT JOIN attempt_in_doubt d ON d.order_id = o.id AND d.attempt = o.attempt
    CROSS JOIN LATERAL (SELECT count(*) AS looks, count(*) FILTER (WHERE answer = 'failed') AS failed, count(*) FILTER (WHERE answer = 'absent' AND NOT after_deadline) AS early,
                               count(*) FILTER (WHERE answer = 'absent' AND after_deadline) AS late FROM look_up WHERE order_id = o.id AND attempt = o.attempt) l
   WHERE o.id = p_order $$;
COMMENT ON FUNCTION order_evidence IS 'What is known of an order''s last attempt, in words: the answer to its request, and what its look-ups brought.';

CREATE VIEW order_attempt AS
  SELECT a.order_id, a.attempt, a.submitted_at, a.receive_deadline,
         (SELECT e.written_by FROM order_event e WHERE e.order_id = a.order_id AND e.attempt = a.attempt ORDER BY e.id LIMIT 1) AS sent_by,
         CASE WHEN NOT a.last THEN CASE WHEN d.never_sent THEN 'never sent' ELSE 'absent' END
              WHEN o.venue_order_id IS NOT NULL OR o.filled_quantity > 0 OR o.status IN ('accepted', 'partially_filled', 'pending_cancel', 'filled', 'expired') THEN 'accepted'
              WHEN o.status = 'rejected' THEN 'rejected'
              WHEN o.status = 'submitted' AND NOT coalesce(d.never_sent, false)
                THEN CASE WHEN o.in_doubt_since IS NOT NULL OR o.receive_deadline < clock_timestamp() THEN 'in doubt' ELSE 'in flight' END
              WHEN coalesce(d.never_sent, true) THEN 'never sent' ELSE 'absent' END AS outcome,
         l.look_ups, l.absences, l.last_look_at, d.answer
    FROM (SELECT d.order_id, d.attempt, d.submitted_at, d.receive_deadline, false AS last FROM attempt_in_doubt d JOIN "order" o ON o.id = d.order_id AND o.attempt > d.attempt
          UNION ALL SELECT id, attempt, submitted_at, receive_deadline, true FROM "order" WHERE attempt > 0) a
    JOIN "order" o ON o.id = a.order_id
    LEFT JOIN attempt_in_doubt d ON d.order_id = a.order_id AND d.attempt = a.attempt
    CROSS JOIN LATERAL (SELECT count(*) AS look_ups, count(*) FILTER (WHERE answer = 'absent' AND after_deadline) AS absences, max(at) AS last_look_at
                          FROM look_up WHERE order_id = a.order_id AND attempt = a.attempt) l;
COMMENT ON VIEW order_attempt IS 'One row for each time that an order was made ready to send, and what became of that.';
COMMENT ON COLUMN order_attempt.order_id IS 'Whose attempt it is.';
COMMENT ON COLUMN order_attempt.attempt IS '1 is the first. Another begins only when the one before is proved absent, or was never sent.';
COMMENT ON COLUMN order_attempt.submitted_at IS 'The time stamp that its request is signed with.';
COMMENT ON COLUMN order_attempt.receive_deadline IS 'After this the venue refuses the request, so "not found" becomes proof.';
COMMENT ON COLUMN order_attempt.sent_by IS 'The database user and the trader that made it ready.';
COMMENT ON COLUMN order_attempt.outcome IS 'accepted, rejected (by the venue), absent (looked up, and not there), never sent, in doubt, or in flight: nothing has come back yet.';
COMMENT ON COLUMN order_attempt.look_ups IS 'How often it was looked up at the venue; see look_up.';
COMMENT ON COLUMN order_attempt.absences IS 'How many of those said "not found" after the receive deadline; 2 are proof.';
COMMENT ON COLUMN order_attempt.last_look_at IS 'When it was looked up last.';
COMMENT ON COLUMN order_attempt.answer IS 'What came back in place of a proof; NULL: a proof, or nothing yet.';

CREATE OR REPLACE VIEW order_in_doubt AS
  SELECT o.id, s.name AS strategy, c.name AS account, e.name || ':' || m.symbol AS market, o.side::text AS side, trim_scale(h.quantity) AS held, a.code AS held_asset,
         date_trunc('milliseconds', clock_timestamp() - o.submitted_at) AS age, o.receive_deadline, o.attempt, o.absences, o.next_look_at, o.reason, o.client_order_id,
         o.in_doubt_since, order_evidence(o.id) AS evidence
    FROM "order" o
    JOIN strategy s ON s.id = o.strategy_id
    JOIN account c ON c.id = o.account_id
    JOIN market m ON m.id = o.market_id
    JOIN exchange e ON e.id = m.exchange_id
    LEFT JOIN hold h ON h.order_id = o.id
    LEFT JOIN asset a ON a.id = h.asset_id
   WHERE o.status = 'submitted' AND (o.in_doubt_since IS NOT NULL OR o.receive_deadline < clock_timestamp());
COMMENT ON COLUMN order_in_doubt.in_doubt_since IS 'Since when nobody can say whether it arrived; NULL: no trader has looked at it yet.';
COMMENT ON COLUMN order_in_doubt.evidence IS 'What is known so far, in words; each look-up is a row of look_up.';

-- A look-up that dies with its trader is made again at once: whoever can take the lock of an instance knows that its process is gone.
ALTER TABLE "order" ADD COLUMN looked_up_by uuid CONSTRAINT only_an_order_that_was_sent_is_looked_up CHECK (looked_up_by IS NULL OR attempt > 0);
COMMENT ON COLUMN "order".looked_up_by IS 'The instance (role.instance) of the trader that took it last to look it up.';

-- Whoever wants to be told of what needs a person: LISTEN incident.
ALTER TABLE account ADD COLUMN doubt_alert interval NOT NULL DEFAULT '5 min' CONSTRAINT doubt_alert_is_above_zero CHECK (doubt_alert > '0 s');
COMMENT ON COLUMN account.doubt_alert IS 'How long an order may be in doubt before that is an incident.';
CREATE UNIQUE INDEX incident_in_doubt ON incident (order_id) WHERE kind = 'in doubt';
COMMENT ON COLUMN incident.resolved_at IS 'When a person dealt with it, or when the doubt ended that it tells of; NULL: open.';

CREATE FUNCTION incident_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_notify('incident', '');  -- constant: one notification per transaction, however many rows
  RETURN NULL;
END $$;
COMMENT ON FUNCTION incident_notify IS 'Trigger: whoever listens on the channel incident is told that there is a new one.';
CREATE TRIGGER incident_notify AFTER INSERT ON incident FOR EACH STATEMENT EXECUTE FUNCTION incident_notify();

CREATE FUNCTION order_doubt_ends() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
  UPDATE incident SET resolved_at = clock_timestamp() WHERE order_id = NEW.id AND kind = 'in doubt' AND resolved_at IS NULL;
  RETURN NULL;
END $$;
COMMENT ON FUNCTION order_doubt_ends IS 'Trigger: the incident of an order in doubt ends with the doubt.';
CREATE TRIGGER order_doubt_ends AFTER UPDATE ON "order" FOR EACH ROW
  WHEN (OLD.status = 'submitted' AND NEW.status <> 'submitted' AND (OLD.in_doubt_since IS NOT NULL OR OLD.receive_deadline < clock_timestamp()))
  EXECUTE FUNCTION order_doubt_ends();

-- An order that takes another's place: the other is canceled first, then this one is queued with what is left.
ALTER TABLE "order"
  ADD COLUMN replaces_id bigint REFERENCES "order",
  ADD COLUMN due_quantity positive_amount,
  ADD COLUMN replaced_quantity amount,
  ADD CONSTRAINT a_deposit_or_withdrawal_replaces_nothing CHECK (type IN ('market', 'limit') OR replaces_id IS NULL);
CREATE INDEX order_replaces ON "order" (replaces_id) WHERE replaces_id IS NOT NULL;
COMMENT ON COLUMN "order".replaces_id IS 'It takes that order''s place: that one is asked to cancel, this one waits until it has ended and is queued with what is left of its own quantity.';
COMMENT ON COLUMN "order".due_quantity IS 'What it was queued with, if that is less than quantity: others of its group or line have filled the rest, or its entry brought less. NULL: quantity.';
COMMENT ON COLUMN "order".replaced_quantity IS 'What the orders had filled that it replaces, directly or one through the other, when it was queued.';

CREATE FUNCTION order_replaces() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
  old "order";
  other bigint;
BEGIN
  IF num_nonnulls(NEW.due_quantity, NEW.replaced_quantity) > 0 THEN
    RAISE EXCEPTION 'due_quantity and replaced_quantity follow from other orders: they cannot be given' USING ERRCODE = 'restrict_violation';
  END IF;
  -- Locked with its group, in one order: what they do next sees this order, or this order sees it.
  PERFORM FROM "order" WHERE id = NEW.replaces_id OR parent_id = (SELECT parent_id FROM "order" WHERE id = NEW.replaces_id) ORDER BY id FOR NO KEY UPDATE;
  SELECT * INTO old FROM "order" WHERE id = NEW.replaces_id AND id <> NEW.id;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'replaces_id is %: there is no such order yet; it must be queued before', NEW.replaces_id USING ERRCODE = 'foreign_key_violation';
  ELSIF (old.strategy_id, old.market_id, old.side) IS DISTINCT FROM (NEW.strategy_id, NEW.market_id, NEW.side) THEN
    RAISE EXCEPTION 'replaces_id is %: that order is another strategy''s, or of another market or side; an order takes only the place of its like', old.id
      USING ERRCODE = 'check_violation';
  ELSIF order_is_final(old.status) THEN
    RAISE EXCEPTION 'replaces_id is %: that order is % and cannot be replaced any more', old.id, old.status USING ERRCODE = 'check_violation';
  ELSIF NEW.quote_quantity IS NOT NULL OR (NEW.quantity IS NULL AND NEW.side = 'buy') THEN
    RAISE EXCEPTION 'replaces_id is %: give quantity, the base that is wanted in all; what order % fills is taken off it', old.id, old.id USING ERRCODE = 'check_violation';
  ELSIF NEW.parent_id <> old.parent_id OR (NEW.parent_id IS NOT NULL AND old.parent_id IS NULL) THEN
    RAISE EXCEPTION 'replaces_id is %: leave parent_id empty; it stays in the group of the order that it replaces', old.id USING ERRCODE = 'check_violation';
  END IF;
  SELECT r.id INTO other FROM "order" r WHERE r.replaces_id = old.id AND NOT order_is_final(r.status) LIMIT 1;
  IF other IS NOT NULL THEN
    RAISE EXCEPTION 'replaces_id is %: order % replaces that already; replace order %', old.id, other, other USING ERRCODE = 'check_violation';
  END IF;
  -- It joins the line of the order that it replaces: whoever waits for that line waits for it, too.
  IF EXISTS (WITH RECURSIVE before AS (SELECT NEW.after_id AS id UNION SELECT o.after_id FROM before JOIN "order" o USING (id) WHERE o.after_id IS NOT NULL)
             SELECT FROM before b CROSS JOIN LATERAL order_line(b.id) l WHERE l.id = old.id) THEN
    RAISE EXCEPTION 'after_id is %: that waits for order %, whose place this one takes: each would wait for the other', NEW.after_id, old.id USING ERRCODE = 'check_violation';
  END IF;
  NEW.status := 'waiting';  -- order_follow asks for the cancel, and queues it at once if that is done
  NEW.parent_id := old.parent_id;
  NEW.after_id := coalesce(NEW.after_id, old.after_id);
  IF NEW.expires_at = NEW.created_at + (SELECT order_ttl FROM strategy WHERE id = NEW.strategy_id) THEN
    NEW.expires_at := NULL;  -- nobody gave it: as with all that wait, order_ttl counts from the queue
  END IF;
  RETURN NEW;
END $$;
COMMENT ON FUNCTION order_replaces IS 'Trigger: which order may take whose place. It runs after order_insert, by its name.';
CREATE TRIGGER order_replaces BEFORE INSERT ON "order" FOR EACH ROW
  WHEN (NEW.replaces_id IS NOT NULL OR NEW.due_quantity IS NOT NULL OR NEW.replaced_quantity IS NOT NULL) EXECUTE FUNCTION order_replaces();

CREATE FUNCTION order_replaces_fixed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.replaces_id IS DISTINCT FROM OLD.replaces_id
     OR ((NEW.due_quantity, NEW.replaced_quantity) IS DISTINCT FROM (OLD.due_quantity, OLD.replaced_quantity) AND (OLD.status <> 'waiting' OR pg_trigger_depth() < 2)) THEN
    RAISE EXCEPTION 'order %: what it replaces is fixed, and what is due follows from other orders', OLD.id USING ERRCODE = 'restrict_violation';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER order_replaces_fixed BEFORE UPDATE OF replaces_id, due_quantity, replaced_quantity ON "order" FOR EACH ROW EXECUTE FUNCTION order_replaces_fixed();

CREATE FUNCTION order_replaced(p_order bigint) RETURNS TABLE (id bigint, status order_status, filled_quantity numeric, replaced_quantity numeric)
  LANGUAGE sql STABLE SET search_path = public, pg_temp AS $$
  WITH RECURSIVE line AS (
    SELECT r.* FROM "order" o JOIN "order" r ON r.id = o.replaces_id WHERE o.id = p_order
    UNION ALL SELECT r.* FROM line l JOIN "order" r ON r.id = l.replaces_id WHERE l.replaced_quantity IS NULL)
  SELECT id, status, filled_quantity, replaced_quantity FROM line $$;
COMMENT ON FUNCTION order_replaced IS 'The orders that an order replaces, directly or through others that were never queued; what came before those is in replaced_quantity.';

CREATE FUNCTION order_replaced_quantity(p_order bigint) RETURNS numeric LANGUAGE sql STABLE SET search_path = public, pg_temp AS $$
  WITH RECURSIVE line AS (
    SELECT replaces_id FROM "order" WHERE id = p_order
    UNION ALL SELECT o.replaces_id FROM line l JOIN "order" o ON o.id = l.replaces_id WHERE o.replaces_id IS NOT NULL)
  SELECT coalesce(sum(o.filled_quantity), 0) FROM line l JOIN "order" o ON o.id = l.replaces_id $$;
COMMENT ON FUNCTION order_replaced_quantity IS 'What all orders of the line before an order have filled by now, late fills included.';

CREATE FUNCTION order_line(p_order bigint) RETURNS TABLE (id bigint, status order_status, filled_quantity numeric) LANGUAGE sql STABLE SET search_path = public, pg_temp AS $$
  WITH RECURSIVE line AS (
    SELECT o.id, o.status, o.filled_quantity FROM "order" o WHERE o.id = p_order
    UNION ALL SELECT r.id, r.status, r.filled_quantity FROM line l JOIN "order" r ON r.replaces_id = l.id)
  SELECT id, status, filled_quantity FROM line $$;
COMMENT ON FUNCTION order_line IS 'An order and all that took its place, one after the other.';

CREATE FUNCTION order_line_ended(p_order bigint) RETURNS boolean LANGUAGE sql STABLE SET search_path = public, pg_temp AS $$
  SELECT NOT EXISTS (SELECT FROM order_line(p_order) l WHERE NOT order_is_final(l.status)) $$;
COMMENT ON FUNCTION order_line_ended IS 'Whether an order has ended, and all that took its place: only then orders after it are due.';

CREATE FUNCTION order_may_go_on(p_waiting bigint, p_traded bigint) RETURNS boolean LANGUAGE sql STABLE SET search_path = public, pg_temp AS $$
  SELECT (w.market_id, w.side) = (t.market_id, t.side) AND (w.quantity IS NOT NULL OR (w.side = 'sell' AND w.quote_quantity IS NULL))
    FROM "order" w, "order" t WHERE w.id = p_waiting AND t.id = p_traded $$;
COMMENT ON FUNCTION order_may_go_on IS 'Whether an order of a group that waits goes on with what is left when another has traded a part: only if it does the same, and base can be taken off it.';

CREATE FUNCTION order_due(w "order", OUT due numeric, OUT taken numeric, OUT replaced numeric, OUT why text) LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
  brought numeric;
BEGIN
  replaced := order_replaced_quantity(w.id);
  taken := replaced;
  IF w.parent_id IS NOT NULL THEN  -- what it replaces is of its group
    SELECT coalesce(sum(g.filled_quantity), 0) INTO taken FROM "order" g
     WHERE g.parent_id = w.parent_id AND g.id <> w.id AND (g.market_id, g.side) = (w.market_id, w.side);
  END IF;
  due := w.quantity;
  IF w.side = 'sell' AND w.after_id IS NOT NULL THEN
    -- What the entry brought, less its fees in base, less what a sale will pay in base, less what other ways out have or may still get of it.
    WITH RECURSIVE entry AS (SELECT e.id, e.filled_quantity FROM order_line(w.after_id) l JOIN "order" e USING (id) WHERE e.side = 'buy' AND e.market_id = w.market_id),
    older AS (SELECT w.replaces_id AS id UNION ALL SELECT o.replaces_id FROM older JOIN "order" o USING (id) WHERE o.replaces_id IS NOT NULL)
    SELECT trunc((x.filled - x.fees) / CASE WHEN m.fee_side IN ('give', 'base') THEN 1 + greatest(m.maker_fee, m.taker_fee) ELSE 1 END, 18) - x.others INTO brought
      FROM market m
     CROSS JOIN LATERAL (
       SELECT (SELECT sum(filled_quantity) FROM entry) AS filled,
              (SELECT coalesce(sum(f.fee), 0) FROM fill f JOIN entry e ON e.id = f.order_id WHERE f.fee_asset_id = m.base_id) AS fees,
              (SELECT coalesce(sum(CASE WHEN order_is_final(x.status) THEN x.filled_quantity ELSE greatest(x.filled_quantity, coalesce(x.due_quantity, x.quantity, x.sent_quantity)) END), 0)
                 FROM "order" x JOIN entry e ON e.id = x.after_id
                WHERE x.id <> w.id AND x.status <> 'waiting' AND (x.market_id, x.side) = (w.market_id, w.side)
                  AND (w.parent_id IS NULL OR x.parent_id IS DISTINCT FROM w.parent_id) AND x.id <> ALL (ARRAY(SELECT id FROM older WHERE id IS NOT NULL))) AS others) x
     WHERE m.id = w.market_id;
    IF brought < due THEN
      due := greatest(brought, 0);
      why := format('order %s brought %s', w.after_id, trim_scale(due));
    END IF;
  END IF;
  IF taken > 0 THEN
    due := due - taken;
    why := concat_ws(', ', why, format('%s is filled already', trim_scale(taken)));
  END IF;
END $$;
COMMENT ON FUNCTION order_due IS 'What is left for an order that waits: its quantity, at most what its entry brought, less what its group or those that it replaces have filled. NULL: it takes what is there.';

CREATE OR REPLACE FUNCTION order_release(p_orders bigint[]) RETURNS void LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
  number bigint;
  w "order";
  entry record;
  rest record;
  what order_status;
  why text;
  rival bigint;
BEGIN
  FOR number IN SELECT id FROM "order" WHERE id = ANY(p_orders) AND status = 'waiting' ORDER BY id FOR NO KEY UPDATE LOOP
    UPDATE "order" o SET cancel_requested_at = clock_timestamp(), status = CASE WHEN o.status IN ('waiting', 'queued') THEN 'canceled' ELSE o.status END,
           reason = CASE WHEN o.status IN ('waiting', 'queued') THEN format('order %s replaces it', number) ELSE o.reason END
      FROM "order" n WHERE n.id = number AND o.id = n.replaces_id AND NOT order_is_final(o.status) AND o.cancel_requested_at IS NULL;
    SELECT * INTO w FROM "order" WHERE id = number AND status = 'waiting';
    CONTINUE WHEN NOT FOUND;  -- the end of the one that it replaces has released it
    what := 'queued';
    why := NULL;
    rest := NULL;
    IF w.after_id IS NOT NULL THEN
      SELECT bool_and(order_is_final(l.status)) AS ended, sum(l.filled_quantity) AS filled, (array_agg(l.id ORDER BY l.id DESC))[1] AS id,
             (array_agg(l.status ORDER BY l.id DESC))[1] AS status INTO entry FROM order_line(w.after_id) l;
      what := CASE WHEN NOT entry.ended THEN 'waiting' WHEN entry.filled = 0 THEN 'canceled' ELSE 'queued' END;
      why := format('order %s, for which it waited, is %s', entry.id, entry.status);
    END IF;
    -- One that is filled ends its group, unless another takes its place. One that is filled in part leaves the rest to those that wait.
    SELECT g.id INTO rival FROM "order" g
     WHERE g.parent_id = w.parent_id AND g.id <> w.id AND g.filled_quantity > 0
       AND (g.status = 'filled' AND order_line_ended(g.id)
            OR w.triggered_at IS NULL AND (NOT order_may_go_on(w.id, g.id)
                 OR w.trigger_price IS NULL AND NOT order_is_final(g.status) AND g.id NOT IN (SELECT r.id FROM order_replaced(w.id) r)))
     ORDER BY g.id LIMIT 1;
    IF what = 'queued' AND rival IS NOT NULL THEN
      what := 'canceled';
      why := format('order %s of its group has traded', rival);
    END IF;
    -- One that has triggered, a stop say, has its turn: what would rest in its group now would hold it up.
    SELECT g.id INTO rival FROM "order" g
     WHERE g.parent_id = w.parent_id AND g.id <> w.id AND w.trigger_price IS NULL AND g.triggered_at IS NOT NULL AND NOT order_is_final(g.status)
       AND g.id NOT IN (SELECT r.id FROM order_replaced(w.id) r) ORDER BY g.id LIMIT 1;
    IF what = 'queued' AND rival IS NOT NULL THEN
      what := 'canceled';
      why := format('order %s of its group has triggered', rival);
    END IF;
    IF what = 'queued' AND EXISTS (SELECT FROM order_replaced(w.id) r WHERE NOT order_is_final(r.status)) THEN
      what := 'waiting';
    END IF;
    IF what = 'queued' THEN
      SELECT * INTO rest FROM order_due(w);
      IF (rest.taken >= w.quantity) IS NOT TRUE AND w.trigger_price IS NOT NULL AND (w.triggered_at IS NULL
         OR EXISTS (SELECT FROM "order" g WHERE g.parent_id = w.parent_id AND g.id <> w.id AND g.status <> 'waiting' AND NOT order_is_final(g.status))) THEN
        what := 'waiting';
      ELSIF rest.due <= 0 THEN
        what := 'canceled';
        why := format('nothing is left of %s: %s', trim_scale(w.quantity), rest.why);
      ELSIF w.expires_at < clock_timestamp() THEN
        what := 'expired';
        why := 'it expired while it waited';
      END IF;
    END IF;
    IF what = 'queued' THEN
      UPDATE "order" SET status = what, due_quantity = nullif(rest.due, w.quantity), replaced_quantity = CASE WHEN w.replaces_id IS NOT NULL THEN rest.replaced END,
             reason = concat_ws('; ', coalesce(w.reason, why), CASE WHEN rest.due < w.quantity THEN format('%s of %s is due: %s', trim_scale(rest.due), trim_scale(w.quantity), rest.why) END)
       WHERE id = w.id;
    ELSIF what <> 'waiting' THEN
      UPDATE "order" SET status = what, reason = why WHERE id = w.id;
    END IF;
  END LOOP;
END $$;

-- Only the end of an order that was canceled, or that replaces another, comes here: that of the others costs nothing.
CREATE FUNCTION order_replaces_follow() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  ready bigint[];
BEGIN
  WITH RECURSIVE newer AS (
    SELECT o.id, o.status FROM "order" o WHERE o.replaces_id = NEW.id
    UNION ALL SELECT o.id, o.status FROM newer n JOIN "order" o ON o.replaces_id = n.id WHERE order_is_final(n.status))
  SELECT array_agg(x.id ORDER BY x.id) INTO ready
    FROM (SELECT id FROM newer WHERE status = 'waiting'
          UNION SELECT w.id FROM "order" w WHERE NEW.replaces_id IS NOT NULL AND w.account_id = NEW.account_id AND w.status = 'waiting' AND w.strategy_id = NEW.strategy_id
                   AND EXISTS (SELECT FROM "order" r WHERE r.replaces_id = w.after_id)) x;
  IF ready IS NOT NULL THEN
    PERFORM order_release(ready);
  END IF;
  RETURN NULL;
END $$;
COMMENT ON FUNCTION order_replaces_follow IS 'Trigger: the end of an order lets the one that replaces it go, and those that wait for the whole line.';
CREATE TRIGGER order_replaces_follow AFTER UPDATE ON "order" FOR EACH ROW
  WHEN (OLD.status <> NEW.status AND (NEW.cancel_requested_at IS NOT NULL OR NEW.replaces_id IS NOT NULL) AND order_is_final(NEW.status))
  EXECUTE FUNCTION order_replaces_follow();

-- These functions change in a few words each; whatever else they have become stays.
DO $$
DECLARE
  change record;
  definition text;
BEGIN
  FOR change IN SELECT * FROM (VALUES
      ('order_follow', '(moved.triggered OR g.triggered_at IS NOT NULL))', '(moved.triggered OR g.triggered_at IS NOT NULL OR order_may_go_on(g.id, moved.id)))'),
      ('orders_insert', 'NEW.venue_order_id, NEW.triggered_at);', 'NEW.venue_order_id, NEW.triggered_at, NEW.due_quantity);'),
      ('orders_insert', 'after_id, parent_id, expires_at, bucket_time: the rest', 'after_id, parent_id, replaces_id, expires_at, bucket_time: the rest'),
      ('orders_insert', 'NEW.trigger_when, NEW.after_id, NEW.parent_id) > 0', 'NEW.trigger_when, NEW.after_id, NEW.parent_id, NEW.replaces_id) > 0'),
      ('orders_insert', 'trigger_price, trigger_when, after_id, parent_id)', 'trigger_price, trigger_when, after_id, parent_id, replaces_id)'),
      ('orders_insert', 'NEW.trigger_when::trigger_when, NEW.after_id, NEW.parent_id)', 'NEW.trigger_when::trigger_when, NEW.after_id, NEW.parent_id, NEW.replaces_id)')
    ) x (function, old, new) LOOP
    definition := pg_get_functiondef(change.function::regproc);
    IF (length(definition) - length(replace(definition, change.old, ''))) / length(change.old) <> 1 THEN
      RAISE EXCEPTION '% does not have "%" once', change.function, change.old;
    END IF;
    EXECUTE replace(definition, change.old, change.new);
  END LOOP;
END $$;

CREATE OR REPLACE VIEW orders AS
  SELECT o.id, s.name AS strategy, o.status::text AS status, o.type::text AS type, o.side::text AS side,
         e.name || ':' || m.symbol AS market, a.code AS asset, trim_scale(o.quantity) AS quantity, trim_scale(o.quote_quantity) AS quote_quantity,
         trim_scale(o.limit_price) AS limit_price, trim_scale(o.filled_quantity) AS filled_quantity,
         round(o.filled_quote / nullif(o.filled_quantity, 0), 8) AS average_price, trim_scale(o.filled_quote) AS filled_quote,
         round(o.realised, 8) AS realised, o.reason, o.created_at, o.expires_at, o.bucket_time, o.submitted_at, o.cancel_requested_at, o.updated_at,
         c.name AS account, o.client_order_id, o.venue_order_id,
         o.time_in_force::text AS time_in_force, trim_scale(o.trigger_price) AS trigger_price, o.trigger_when::text AS trigger_when, o.triggered_at,
         o.after_id, o.parent_id, o.replaces_id, trim_scale(o.due_quantity) AS due_quantity
    FROM "order" o
    JOIN strategy s ON s.id = o.strategy_id
    JOIN account c ON c.id = o.account_id
    LEFT JOIN market m ON m.id = o.market_id
    LEFT JOIN exchange e ON e.id = m.exchange_id
    LEFT JOIN asset a ON a.id = o.asset_id;
COMMENT ON COLUMN "order".expires_at IS 'If no trader has seen it by then, it is denied as stale; one that still waits then is expired. One that rests at the venue stays. Default: order_ttl of its strategy after it was queued.';
COMMENT ON COLUMN "order".after_id IS 'It waits until that order has ended, and all that took its place: queued if they filled anything, with at most what they brought; else canceled.';
COMMENT ON COLUMN "order".parent_id IS 'Orders with the same parent are a group, of which one cancels the others: the first fill of one asks for the cancel of the rest; those that wait go on with what is left until one is filled.';
DO $$
DECLARE
  c record;
BEGIN
  FOR c IN SELECT v.attname AS name, col_description('"order"'::regclass, o.attnum) AS meaning FROM pg_attribute v JOIN pg_attribute o USING (attname)
            WHERE v.attrelid = 'orders'::regclass AND o.attrelid = '"order"'::regclass AND v.attnum > 0 AND o.attnum > 0 LOOP
    EXECUTE format('COMMENT ON COLUMN orders.%I IS %L', c.name, c.meaning);
  END LOOP;
END $$;

CREATE FUNCTION order_stuck(p_order bigint) RETURNS boolean LANGUAGE sql STABLE SET search_path = public, pg_temp AS $$
  SELECT order_line_ended(w.after_id) AND NOT EXISTS (SELECT FROM order_replaced(w.id) r WHERE NOT order_is_final(r.status))
         AND (w.trigger_price IS NULL OR (SELECT sum(l.filled_quantity) FROM order_line(w.after_id) l) = 0)
    FROM "order" w WHERE w.id = p_order $$;
COMMENT ON FUNCTION order_stuck IS 'Whether an order waits for others that have all ended: never true, see invariant_violation.';
CREATE FUNCTION order_triggered(p_order bigint) RETURNS boolean LANGUAGE sql STABLE SET search_path = public, pg_temp AS $$
  SELECT w.triggered_at IS NOT NULL AND NOT EXISTS (SELECT FROM order_replaced(w.id) r WHERE NOT order_is_final(r.status)) FROM "order" w WHERE w.id = p_order $$;
COMMENT ON FUNCTION order_triggered IS 'Whether the price of an order has come, and all that it replaces has ended.';

-- Two of its rules change in a word each, one is added; whatever else it has become stays.
DO $$
DECLARE
  definition text := rtrim(pg_get_viewdef('invariant_violation'), '; ');
BEGIN
  IF array_length(string_to_array(definition, 'order_is_final(a.status)'), 1) <> 2 OR array_length(string_to_array(definition, '(w.triggered_at IS NOT NULL)'), 1) <> 2 THEN
    RAISE EXCEPTION 'the rules of invariant_violation on orders that wait are not what they were';
  END IF;
  EXECUTE format('CREATE OR REPLACE VIEW invariant_violation AS %s UNION ALL
    SELECT %L, format(%L, w.id), w.status::text, format(%L, w.replaces_id)
      FROM "order" w
     WHERE w.status < %L AND w.replaces_id IS NOT NULL AND w.trigger_price IS NULL AND (w.after_id IS NULL OR order_line_ended(w.after_id))
       AND NOT EXISTS (SELECT FROM order_replaced(w.id) r WHERE NOT order_is_final(r.status))',
    replace(replace(definition, 'order_is_final(a.status)', 'order_stuck(w.id)'), '(w.triggered_at IS NOT NULL)', 'order_triggered(w.id)'),
    'an order waits for what it replaces only while that is open', 'order %s', 'it replaces order %s', 'queued');
END $$;

REVOKE EXECUTE ON FUNCTION order_doubt(), order_doubt_ends(), order_replaces_follow() FROM PUBLIC;
GRANT SELECT ON look_up, attempt_in_doubt, order_attempt TO tallydesk_reader, tallydesk_user;
GRANT INSERT (replaces_id) ON "order" TO tallydesk_user;
