-- Searches over a strategy's parameters: what is searched, each set that was tried, and what it made. Workers do it in chunks.

CREATE TYPE sweep_method AS ENUM ('grid', 'random', 'tpe', 'qmc', 'cmaes');
CREATE TYPE sweep_state AS ENUM ('running', 'stopped', 'done', 'failed');
CREATE TYPE sweep_trial_state AS ENUM ('pending', 'done', 'failed');

CREATE TABLE sweep (
  id               int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  class            text NOT NULL CONSTRAINT class_is_module_and_name CHECK (class ~ '^[^:\s]+:[^:\s]+$'),
  code_digest      text NOT NULL,
  market_id        int NOT NULL REFERENCES market,
  timeframe_id     smallint NOT NULL REFERENCES timeframe,
  since            timestamptz NOT NULL,
  until            timestamptz NOT NULL,
  candles          int NOT NULL CONSTRAINT candles_are_at_least_2 CHECK (candles >= 2),
  candle_digest    text NOT NULL,
  params           jsonb NOT NULL DEFAULT '{}' CONSTRAINT params_is_an_object CHECK (jsonb_typeof(params) = 'object'),
  space            jsonb NOT NULL CONSTRAINT space_is_an_object CHECK (jsonb_typeof(space) = 'object' AND space <> '{}'),
  settings         jsonb NOT NULL DEFAULT '{}' CONSTRAINT settings_is_an_object CHECK (jsonb_typeof(settings) = 'object'),
  schedule         text NOT NULL DEFAULT 'bucket',
  method           sweep_method NOT NULL,
  seed             bigint NOT NULL DEFAULT 0,
  trials           int NOT NULL CONSTRAINT trials_is_above_zero CHECK (trials > 0),
  skipped          int NOT NULL DEFAULT 0 CONSTRAINT skipped_is_not_below_zero CHECK (skipped >= 0),
  generation_size  int CONSTRAINT generation_size_is_above_zero CHECK (generation_size > 0),
  generation       int NOT NULL DEFAULT 0 CONSTRAINT generation_is_not_below_zero CHECK (generation >= 0),
  chunk_size       int NOT NULL CONSTRAINT chunk_size_is_above_zero CHECK (chunk_size > 0),
  objective        text NOT NULL,
  folds            smallint NOT NULL DEFAULT 0 CONSTRAINT folds_are_not_below_zero CHECK (folds >= 0),
  train            smallint CONSTRAINT train_is_above_zero CHECK (train > 0),
  embargo          int NOT NULL DEFAULT 0 CONSTRAINT embargo_is_not_below_zero CHECK (embargo >= 0),
  anchored         boolean NOT NULL DEFAULT false,
  state            sweep_state NOT NULL DEFAULT 'running',
  error            text,
  out_of_sample    jsonb,
  created_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
  finished_at      timestamptz,
  CONSTRAINT since_is_before_until CHECK (since < until),
  CONSTRAINT a_sampler_proposes_in_generations CHECK ((method IN ('grid', 'random')) = (generation_size IS NULL)),
  CONSTRAINT a_walk_forward_has_folds_and_train CHECK ((folds > 0) = (train IS NOT NULL)),
  CONSTRAINT what_failed_says_why CHECK ((state = 'failed') = (error IS NOT NULL)),
  CONSTRAINT what_has_ended_says_when CHECK ((state IN ('done', 'failed')) = (finished_at IS NOT NULL))
) WITH (fillfactor = 50);
CREATE INDEX sweep_running ON sweep (id) WHERE state = 'running';
COMMENT ON TABLE sweep IS 'A search over the parameters of a strategy on stored candles. tallydesk sweep makes one; to remove one with its trials: DELETE FROM sweep WHERE id = ...';
COMMENT ON COLUMN sweep.class IS 'module:Class.';
COMMENT ON COLUMN sweep.code_digest IS 'A hash of the file of the class when the sweep began: a worker that has another file does not go on.';
COMMENT ON COLUMN sweep.since IS 'When the first candle opens.';
COMMENT ON COLUMN sweep.until IS 'When the last candle closes.';
COMMENT ON COLUMN sweep.candles IS 'How many candles there were when it began.';
COMMENT ON COLUMN sweep.candle_digest IS 'A hash of all of them: a trial is run on the same ones, or the sweep fails.';
COMMENT ON COLUMN sweep.params IS 'Parameters that are the same in every set; the class''s defaults for the others.';
COMMENT ON COLUMN sweep.space IS 'What is searched: each parameter with its values, such as {"fast": "2..50:2", "price": "close,ohlc4"}.';
COMMENT ON COLUMN sweep.settings IS 'Of the backtests: docs/backtests.md. What is not named has its default.';
COMMENT ON COLUMN sweep.schedule IS 'bucket, minute, hour or day: at which candles the strategy decides.';
COMMENT ON COLUMN sweep.method IS 'grid: all sets; random: drawn; tpe, qmc, cmaes: proposed by Optuna''s sampler of this name.';
COMMENT ON COLUMN sweep.seed IS 'All chance comes from it: the same sweep gives the same rows.';
COMMENT ON COLUMN sweep.trials IS 'How many sets are tried in each fold.';
COMMENT ON COLUMN sweep.skipped IS 'Sets that the class does not take (fast >= slow), and drawn ones that were there already.';
COMMENT ON COLUMN sweep.generation_size IS 'So many sets are proposed at a time, from the results of all generations before: never from who was done first. NULL: nothing is proposed.';
COMMENT ON COLUMN sweep.generation IS 'How many generations were proposed so far.';
COMMENT ON COLUMN sweep.chunk_size IS 'How many trials one job runs; a worker that is killed loses at most those.';
COMMENT ON COLUMN sweep.objective IS 'The measure that is to be as large as can be.';
COMMENT ON COLUMN sweep.folds IS 'Tests of the walk-forward; 0: there is none, all candles are one sample.';
COMMENT ON COLUMN sweep.train IS 'How long a training is, in lengths of a test; if anchored, the first one.';
COMMENT ON COLUMN sweep.embargo IS 'Candles between a training and its test that belong to neither.';
COMMENT ON COLUMN sweep.anchored IS 'Every training begins at the first candle, and so grows; else all are equally long.';
COMMENT ON COLUMN sweep.state IS 'running: workers do it; stopped: tallydesk sweep resume goes on; done, failed: it has ended.';
COMMENT ON COLUMN sweep.error IS 'Why it failed.';
COMMENT ON COLUMN sweep.out_of_sample IS 'Of a walk-forward: the measures of all tests as one run.';
COMMENT ON COLUMN sweep.finished_at IS 'When it was done, or failed.';

CREATE TABLE sweep_fold (
  sweep_id         int NOT NULL REFERENCES sweep ON DELETE CASCADE,
  fold             smallint NOT NULL,
  train_first      timestamptz NOT NULL,
  train_last       timestamptz NOT NULL,
  test_first       timestamptz,
  test_last        timestamptz,
  best             int,
  deflated_sharpe  float8 CONSTRAINT deflated_sharpe_is_a_probability CHECK (deflated_sharpe BETWEEN 0 AND 1),
  PRIMARY KEY (sweep_id, fold),
  CONSTRAINT a_test_comes_after_its_training CHECK (train_first < train_last AND train_last < test_first AND test_first <= test_last),
  CONSTRAINT a_test_has_both_ends CHECK ((test_first IS NULL) = (test_last IS NULL))
);
COMMENT ON TABLE sweep_fold IS 'The samples of a sweep: fold 0 is all of it; of a walk-forward, folds 1, 2, ... each with a training and the test that follows.';
COMMENT ON COLUMN sweep_fold.fold IS '0: no walk-forward.';
COMMENT ON COLUMN sweep_fold.train_first IS 'When the first candle of the training closes.';
COMMENT ON COLUMN sweep_fold.train_last IS 'When its last candle closes.';
COMMENT ON COLUMN sweep_fold.test_first IS 'When the first candle of the test closes; NULL: there is no test.';
COMMENT ON COLUMN sweep_fold.test_last IS 'When its last candle closes.';
COMMENT ON COLUMN sweep_fold.best IS 'Number of the trial with the largest value in the training; NULL: not yet, or none has a value.';
COMMENT ON COLUMN sweep_fold.deflated_sharpe IS 'How likely the best trial''s Sharpe ratio is above what the best of so many tries without any skill would have: docs/sweeps.md.';

CREATE TABLE sweep_trial (
  sweep_id       int NOT NULL,
  fold           smallint NOT NULL,
  number         int NOT NULL,
  generation     int NOT NULL DEFAULT 0,
  chunk          int NOT NULL,
  params         jsonb NOT NULL,
  state          sweep_trial_state NOT NULL DEFAULT 'pending',
  value          float8 CONSTRAINT value_is_finite CHECK (value > '-Infinity' AND value < 'Infinity'),
  in_sample      jsonb,
  out_of_sample  jsonb,
  error          text,
  PRIMARY KEY (sweep_id, fold, number),
  FOREIGN KEY (sweep_id, fold) REFERENCES sweep_fold ON DELETE CASCADE,
  CONSTRAINT what_failed_says_why CHECK ((state = 'failed') = (error IS NOT NULL)),
  CONSTRAINT what_is_done_has_measures CHECK ((state = 'done') = (in_sample IS NOT NULL)),
  CONSTRAINT only_what_is_done_has_a_value CHECK (state = 'done' OR value IS NULL)
) WITH (fillfactor = 50);
CREATE INDEX sweep_trial_pending ON sweep_trial (sweep_id, chunk) WHERE state = 'pending';
CREATE INDEX sweep_trial_best ON sweep_trial (sweep_id, fold, value DESC, number) WHERE value IS NOT NULL;
COMMENT ON TABLE sweep_trial IS 'One set of parameters on one fold, and what it made there.';
COMMENT ON COLUMN sweep_trial.fold IS 'Of sweep_fold.';
COMMENT ON COLUMN sweep_trial.number IS 'From 1 on in each fold; without a sampler, the same number is the same set in every fold.';
COMMENT ON COLUMN sweep_trial.generation IS 'In which it was proposed, from 0 on.';
COMMENT ON COLUMN sweep_trial.chunk IS 'The job that runs it, with others of its fold and generation.';
COMMENT ON COLUMN sweep_trial.params IS 'Of the strategy: those that are searched.';
COMMENT ON COLUMN sweep_trial.state IS 'pending: not run yet; failed: the strategy raised, or its signal is none.';
COMMENT ON COLUMN sweep_trial.value IS 'The objective; NULL: it cannot be told (no trade, no loss).';
COMMENT ON COLUMN sweep_trial.in_sample IS 'The measures of docs/backtests.md on the training, and of its returns: periods, sharpe_period, skew, kurtosis.';
COMMENT ON COLUMN sweep_trial.out_of_sample IS 'The same on the test, of the best trial of each fold alone.';
COMMENT ON COLUMN sweep_trial.error IS 'What the strategy raised, and where.';

CREATE TRIGGER written BEFORE INSERT OR UPDATE ON sweep FOR EACH STATEMENT
  EXECUTE FUNCTION only_from_processes('tallydesk sweep makes one, and tallydesk sweep stop ends one');
CREATE TRIGGER written BEFORE INSERT OR UPDATE OR DELETE ON sweep_fold FOR EACH STATEMENT
  EXECUTE FUNCTION only_from_processes('it belongs to its sweep');
CREATE TRIGGER written BEFORE INSERT OR UPDATE OR DELETE ON sweep_trial FOR EACH STATEMENT
  EXECUTE FUNCTION only_from_processes('it is what a backtest made; to remove a sweep with its trials: DELETE FROM sweep');

CREATE VIEW sweeps AS
  SELECT s.id, s.class, e.name || ':' || m.symbol AS market, t.name AS timeframe, s.method::text AS method, s.objective, s.state::text AS state,
         s.folds, s.trials * greatest(s.folds, 1) AS trials, n.done, n.failed, s.skipped, b.value AS best, b.deflated_sharpe,
         (s.out_of_sample->>'sharpe')::float8 AS test_sharpe, (s.out_of_sample->>'return_percent')::float8 AS test_return_percent,
         s.created_at, s.finished_at, s.error
    FROM sweep s
    JOIN market m ON m.id = s.market_id
    JOIN exchange e ON e.id = m.exchange_id
    JOIN timeframe t ON t.id = s.timeframe_id
   CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE y.state <> 'pending') AS done, count(*) FILTER (WHERE y.state = 'failed') AS failed
                         FROM sweep_trial y WHERE y.sweep_id = s.id) n
    LEFT JOIN LATERAL (SELECT y.value, f.deflated_sharpe FROM sweep_fold f JOIN sweep_trial y ON (y.sweep_id, y.fold, y.number) = (f.sweep_id, f.fold, f.best)
                        WHERE f.sweep_id = s.id AND f.fold = 0) b ON true;
COMMENT ON VIEW sweeps IS 'Searches over parameters by names, and how far they are.';
COMMENT ON COLUMN sweeps.class IS 'module:Class.';
COMMENT ON COLUMN sweeps.method IS 'grid, random, or the sampler of Optuna that proposes sets.';
COMMENT ON COLUMN sweeps.objective IS 'The measure that is to be as large as can be.';
COMMENT ON COLUMN sweeps.state IS 'running, stopped, done or failed.';
COMMENT ON COLUMN sweeps.folds IS 'Tests of the walk-forward; 0: there is none.';
COMMENT ON COLUMN sweeps.trials IS 'How many there are to be, in all folds.';
COMMENT ON COLUMN sweeps.done IS 'How many were run, the failed ones included.';
COMMENT ON COLUMN sweeps.failed IS 'How many of them the strategy raised in.';
COMMENT ON COLUMN sweeps.skipped IS 'Sets that the class does not take, and drawn ones that were there already.';
COMMENT ON COLUMN sweeps.best IS 'The largest value; NULL: not done yet, or a walk-forward, whose best ones are in sweep_fold.';
COMMENT ON COLUMN sweeps.deflated_sharpe IS 'Of the best trial: see sweep_fold.';
COMMENT ON COLUMN sweeps.test_sharpe IS 'Of a walk-forward, of all tests as one run.';
COMMENT ON COLUMN sweeps.test_return_percent IS 'Of a walk-forward, of all tests as one run.';
COMMENT ON COLUMN sweeps.finished_at IS 'When it was done, or failed.';
COMMENT ON COLUMN sweeps.error IS 'Why it failed.';

GRANT SELECT ON sweep, sweep_fold, sweep_trial, sweeps TO tallydesk_reader, tallydesk_user;
GRANT DELETE ON sweep TO tallydesk_user;
