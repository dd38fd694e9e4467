-- Everything that 0001_procrastinate.up.sql made, and nothing else. plpgsql stays: PostgreSQL itself brings it.

-- Functions are found by name: their argument lists are procrastinate's business. CASCADE reaches its triggers. They go
-- first because some return rows of the tables.
DO $$
DECLARE
    name regprocedure;
BEGIN
    FOR name IN
        SELECT oid::regprocedure FROM pg_proc
        WHERE pronamespace = current_schema::regnamespace AND proname LIKE 'procrastinate\_%'
    LOOP
        EXECUTE format('DROP FUNCTION %s CASCADE', name);
    END LOOP;
END;
$$;

DROP TABLE procrastinate_events, procrastinate_periodic_defers, procrastinate_jobs, procrastinate_workers;

DROP TYPE procrastinate_job_to_defer_v1, procrastinate_job_event_type, procrastinate_job_status;
