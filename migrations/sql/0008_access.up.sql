-- Two roles to grant to people and programs. They belong to the whole server, so they may be there already.
DO $$
DECLARE
  name text;
BEGIN
  FOREACH name IN ARRAY ARRAY['tallydesk_reader', 'tallydesk_user'] LOOP
    BEGIN
      EXECUTE format('CREATE ROLE %I NOLOGIN', name);
    EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
    END;
  END LOOP;
END $$;

-- A trigger runs without this right; making one needs it. Else a temporary table with our triggers would be a way into the books.
DO $$
DECLARE
  name regprocedure;
BEGIN
  FOR name IN SELECT p.oid FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace AND p.prosecdef LOOP
    EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', name);
  END LOOP;
END $$;

GRANT USAGE ON SCHEMA public TO tallydesk_reader, tallydesk_user;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO tallydesk_reader, tallydesk_user;
GRANT INSERT (strategy_id, type, side, market_id, asset_id, quantity, quote_quantity, limit_price, expires_at, bucket_time) ON "order" TO tallydesk_user;
GRANT UPDATE (cancel_requested_at) ON "order" TO tallydesk_user;
GRANT INSERT, UPDATE, DELETE ON orders TO tallydesk_user;
GRANT UPDATE (halted, halt_reason) ON account TO tallydesk_user;
GRANT UPDATE (enabled, stake, stake_unit, params, order_ttl) ON strategy TO tallydesk_user;
GRANT UPDATE (enabled, collect_since) ON bucket_feed TO tallydesk_user;
GRANT UPDATE (resolved_at) ON incident TO tallydesk_user;
