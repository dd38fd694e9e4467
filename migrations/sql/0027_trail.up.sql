-- Trailing stops: an order that waits for a price which follows the market, and never comes back.

ALTER TABLE "order"
  ADD COLUMN trail numeric,
  ADD CONSTRAINT trail_is_a_share_of_at_most_18_decimals CHECK (trail > 0 AND trail < 1 AND trail = round(trail, 18)),
  ADD CONSTRAINT only_a_market_order_trails CHECK (trail IS NULL OR type = 'market'),
  ADD CONSTRAINT what_trails_is_met_from_its_own_side CHECK (trail IS NULL OR trigger_when = CASE side WHEN 'sell' THEN 'falls' ELSE 'rises' END::trigger_when);
COMMENT ON COLUMN "order".trail IS 'A trailing stop: trigger_price is kept at (1 - trail) x the highest price since it counts, of a buy at (1 + trail) x the lowest. 0.05 is 5 %.';
COMMENT ON COLUMN "order".trigger_price IS 'It waits here, unknown to the venue, until the last price comes to this; then it is queued. With a trail a trader moves it, and it is NULL until one has seen a price.';

CREATE FUNCTION order_trail() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
  IF NOT (NEW.trail > 0 AND NEW.trail < 1 AND NEW.trail = round(NEW.trail, 18)) THEN
    RAISE EXCEPTION 'trail is %: it must be a share above 0 and below 1 of at most 18 decimals; 0.05 is 5 %%', NEW.trail USING ERRCODE = 'check_violation';
  ELSIF NEW.type <> 'market' THEN
    RAISE EXCEPTION 'trail is %: only a market order trails; a % has no price that could follow', trim_scale(NEW.trail),
      CASE NEW.type WHEN 'limit' THEN 'limit order' ELSE NEW.type::text END USING ERRCODE = 'check_violation';
  ELSIF NEW.trigger_when IS NOT NULL OR (NEW.trigger_price IS NOT NULL AND process() = '') THEN
    RAISE EXCEPTION 'trail is %: leave trigger_price and trigger_when empty; the one follows the price, the other the side', trim_scale(NEW.trail)
      USING ERRCODE = 'check_violation';
  END IF;
  NEW.trigger_when := CASE WHEN NEW.trigger_price IS NOT NULL THEN CASE NEW.side WHEN 'sell' THEN 'falls' ELSE 'rises' END END;
  NEW.status := 'waiting';
  IF NEW.expires_at = NEW.created_at + (SELECT order_ttl FROM strategy WHERE id = NEW.strategy_id) THEN
    NEW.expires_at := NULL;  -- nobody gave it: as with all that wait, order_ttl counts from the queue
  END IF;
  RETURN NEW;
END $$;
COMMENT ON FUNCTION order_trail IS 'Trigger: what a trailing stop may be. It runs after order_insert, by its name. A process may say from which price it starts.';
CREATE TRIGGER order_trail BEFORE INSERT ON "order" FOR EACH ROW WHEN (NEW.trail IS NOT NULL) EXECUTE FUNCTION order_trail();

CREATE FUNCTION order_trail_moves() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF OLD.status <> 'waiting' OR OLD.triggered_at IS NOT NULL OR NEW.trigger_price IS NULL
     OR (CASE NEW.side WHEN 'sell' THEN NEW.trigger_price < OLD.trigger_price ELSE NEW.trigger_price > OLD.trigger_price END) THEN
    RAISE EXCEPTION 'order %: its trigger price only % while it waits', OLD.id, CASE NEW.side WHEN 'sell' THEN 'rises' ELSE 'falls' END
      USING ERRCODE = 'restrict_violation';
  END IF;
  RETURN NEW;
END $$;
COMMENT ON FUNCTION order_trail_moves IS 'Trigger: the trigger price of a trailing stop never comes back, whoever writes it.';
CREATE TRIGGER order_trail_moves BEFORE UPDATE ON "order" FOR EACH ROW
  WHEN (OLD.trail IS NOT NULL AND OLD.trigger_price IS DISTINCT FROM NEW.trigger_price) EXECUTE FUNCTION order_trail_moves();

-- These functions change in a few words each; whatever else they have become stays.
DO $$
DECLARE
  change record;
  definition text;
BEGIN
  FOR change IN SELECT * FROM (VALUES
      ('order_update', 'NEW.time_in_force, NEW.trigger_price,', 'NEW.time_in_force, NEW.trail, CASE WHEN OLD.trail IS NULL THEN NEW.trigger_price END,'),
      ('order_update', 'OLD.time_in_force, OLD.trigger_price,', 'OLD.time_in_force, OLD.trail, CASE WHEN OLD.trail IS NULL THEN OLD.trigger_price END,'),
      ('order_release', 'OR w.trigger_price IS NULL AND', 'OR num_nonnulls(w.trigger_price, w.trail) = 0 AND'),
      ('order_release', 'g.id <> w.id AND w.trigger_price IS NULL AND g.triggered_at', 'g.id <> w.id AND num_nonnulls(w.trigger_price, w.trail) = 0 AND g.triggered_at'),
      ('order_release', 'w.trigger_price IS NOT NULL AND (', 'num_nonnulls(w.trigger_price, w.trail) > 0 AND ('),
      ('order_stuck', 'w.trigger_price IS NULL OR', 'num_nonnulls(w.trigger_price, w.trail) = 0 OR'),
      ('orders_insert', 'trigger_when, after_id, parent_id, replaces_id, expires_at', 'trigger_when, trail, after_id, parent_id, replaces_id, expires_at'),
      ('orders_insert', 'NEW.trigger_when, NEW.after_id, NEW.parent_id, NEW.replaces_id) > 0', 'NEW.trigger_when, NEW.trail, NEW.after_id, NEW.parent_id, NEW.replaces_id) > 0'),
      ('orders_insert', 'NEW.trigger_when IS NOT NULL AND NEW.trigger_price IS NULL THEN', 'NEW.trigger_when IS NOT NULL AND NEW.trigger_price IS NULL AND NEW.trail IS NULL THEN'),
      ('orders_insert', 'trigger_price, trigger_when, after_id, parent_id, replaces_id)', 'trigger_price, trigger_when, trail, after_id, parent_id, replaces_id)'),
      ('orders_insert', 'NEW.trigger_when::trigger_when, NEW.after_id,', 'NEW.trigger_when::trigger_when, NEW.trail, NEW.after_id,')
    ) x (function, old, new) LOOP
    definition := pg_get_functiondef(change.function::regproc);
    IF (length(definition) - length(replace(definition, change.old, ''))) / length(change.old) <> 1 THEN
      RAISE EXCEPTION '% does not have "%" once', change.function, change.old;
    END IF;
    EXECUTE replace(definition, change.old, change.new);
  END LOOP;
  definition := pg_get_viewdef('invariant_violation');
  IF array_length(string_to_array(definition, '(w.trigger_price IS NULL)'), 1) <> 3 THEN
    RAISE EXCEPTION 'the rules of invariant_violation on orders that wait are not what they were';
  END IF;
  EXECUTE 'CREATE OR REPLACE VIEW invariant_violation AS ' || replace(definition, '(w.trigger_price IS NULL)', '(num_nonnulls(w.trigger_price, w.trail) = 0)');
END $$;

-- A column more at the end; whatever else the view has become stays.
DO $$
DECLARE
  definition text := pg_get_viewdef('orders');
  c record;
BEGIN
  IF array_length(string_to_array(definition, 'AS due_quantity'), 1) <> 2 THEN
    RAISE EXCEPTION 'the view orders is not what it was';
  END IF;
  EXECUTE 'CREATE OR REPLACE VIEW orders AS ' || replace(definition, 'AS due_quantity', 'AS due_quantity, trim_scale(o.trail) AS trail');
  FOR c IN SELECT attname AS name, col_description(attrelid, attnum) AS meaning FROM pg_attribute
            WHERE attrelid = '"order"'::regclass AND attname IN ('trail', 'trigger_price') LOOP
    EXECUTE format('COMMENT ON COLUMN orders.%I IS %L', c.name, c.meaning);
  END LOOP;
END $$;

GRANT INSERT (trail) ON "order" TO tallydesk_user;
