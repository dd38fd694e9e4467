-- A trailing stop that has come to a price stays there, as a stop; one that no trader has looked at yet is ended.
DO $$
BEGIN
  PERFORM set_config('tallydesk.process', 'migration', true);
  UPDATE "order" SET status = 'canceled', reason = 'the older version cannot keep it' WHERE status = 'waiting' AND trail IS NOT NULL AND trigger_price IS NULL;
  PERFORM set_config('tallydesk.process', '', true);
END $$;

DROP TRIGGER order_trail ON "order";
DROP TRIGGER order_trail_moves ON "order";
DROP FUNCTION order_trail(), order_trail_moves();

-- Each of these words back; whatever else the functions and views have become stays.
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
    ) x (function, new, old) LOOP
    definition := pg_get_functiondef(change.function::regproc);
    IF (length(definition) - length(replace(definition, change.old, ''))) / length(change.old) <> 1 THEN
      RAISE EXCEPTION '% does not have "%" once', change.function, change.old;
    END IF;
    EXECUTE replace(definition, change.old, change.new);
  END LOOP;
  definition := pg_get_viewdef('invariant_violation');
  EXECUTE 'CREATE OR REPLACE VIEW invariant_violation AS ' || regexp_replace(definition, '\(num_nonnulls\([^)]*w\.trail\) = 0\)', '(w.trigger_price IS NULL)', 'g');
END $$;

-- No column can be taken out of a view: it is made anew, with what was said of it.
DO $$
DECLARE
  definition text := regexp_replace(pg_get_viewdef('orders'), ',\s*trim_scale\(o\.trail\) AS trail', '');
  said text := obj_description('orders'::regclass);
  comments jsonb := (SELECT jsonb_object_agg(attname, col_description(attrelid, attnum)) FROM pg_attribute
                      WHERE attrelid = 'orders'::regclass AND col_description(attrelid, attnum) IS NOT NULL AND attname <> 'trail')
    || '{"trigger_price": "It waits here, unknown to the venue, until the last price comes to this; then it is queued."}';
  c record;
BEGIN
  DROP VIEW orders;
  EXECUTE 'CREATE VIEW orders AS ' || definition;
  EXECUTE format('COMMENT ON VIEW orders IS %L', said);
  FOR c IN SELECT key AS name, value AS meaning FROM jsonb_each_text(comments) LOOP
    EXECUTE format('COMMENT ON COLUMN orders.%I IS %L', c.name, c.meaning);
  END LOOP;
END $$;
CREATE TRIGGER orders_insert INSTEAD OF INSERT ON orders FOR EACH ROW EXECUTE FUNCTION orders_insert();
CREATE TRIGGER orders_change INSTEAD OF UPDATE OR DELETE ON orders FOR EACH ROW EXECUTE FUNCTION orders_change();
GRANT SELECT ON orders TO tallydesk_reader, tallydesk_user;
GRANT INSERT, UPDATE, DELETE ON orders TO tallydesk_user;
REVOKE INSERT (trail) ON "order" FROM tallydesk_user;
ALTER TABLE "order" DROP COLUMN trail;
COMMENT ON COLUMN "order".trigger_price IS 'It waits here, unknown to the venue, until the last price comes to this; then it is queued.';
