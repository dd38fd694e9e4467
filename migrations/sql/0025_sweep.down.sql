-- Results can be computed again; jobs that would look for them go with them.
DELETE FROM procrastinate_jobs WHERE task_name IN ('sweep.chunk', 'sweep.advance') AND status <> 'doing';
DROP VIEW sweeps;
DROP TABLE sweep_trial, sweep_fold, sweep;
DROP TYPE sweep_trial_state, sweep_state, sweep_method;
