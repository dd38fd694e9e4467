-- Backtests: what was run on which candles by which code, and what came out. No money is here: nothing of the books refers to it.

CREATE TABLE backtest_run (
  id                    int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  strategy              text CONSTRAINT strategy_has_no_spaces CHECK (strategy ~ '^\S+$'),
  class                 text NOT NULL CONSTRAINT class_is_module_colon_class CHECK (class ~ '^[A-Za-z_][\w.]*:[A-Za-z_]\w*$'),
  params                jsonb NOT NULL CONSTRAINT params_is_an_object CHECK (jsonb_typeof(params) = 'object'),
  schedule              text NOT NULL DEFAULT 'bucket',
  market_id             int REFERENCES market,
  timeframe_id          smallint NOT NULL REFERENCES timeframe,
  source                text NOT NULL,
  inputs                jsonb NOT NULL DEFAULT '{}' CONSTRAINT inputs_is_an_object CHECK (jsonb_typeof(inputs) = 'object'),
  asked_from            timestamptz,
  asked_to              timestamptz,
  used_from             timestamptz NOT NULL,
  used_to               timestamptz NOT NULL,
  candles               int NOT NULL CONSTRAINT there_is_at_least_one_candle CHECK (candles > 0),
  warm_up               int,
  digest                text NOT NULL CONSTRAINT digest_is_sha256_in_hex CHECK (digest ~ '^[0-9a-f]{64}$'),
  settings              jsonb NOT NULL CONSTRAINT settings_is_an_object CHECK (jsonb_typeof(settings) = 'object'),
  engine                text NOT NULL CONSTRAINT engine_is_array_bars_or_exact CHECK (engine IN ('array', 'bars', 'exact')),
  seed                  bigint NOT NULL DEFAULT 0,
  version               text NOT NULL,
  code                  text NOT NULL CONSTRAINT code_is_sha256_in_hex CHECK (code ~ '^[0-9a-f]{64}$'),
  deposits              numeric,
  withdrawals           numeric,
  equity                numeric,
  profit                numeric,
  realised              numeric,
  unrealised            numeric,
  fees                  numeric,
  return_percent        numeric,
  annual_return_percent numeric,
  buy_and_hold_percent  numeric,
  max_drawdown_percent  numeric,
  drawdown_days         numeric,
  sharpe                numeric,
  sortino               numeric,
  calmar                numeric,
  trades                int,
  win_percent           numeric,
  profit_factor         numeric,
  expectancy            numeric,
  exposure_percent      numeric,
  turnover              numeric,
  gaps                  int,
  missing_bars          int,
  fills_after_gaps      int,
  longest_gaps          jsonb NOT NULL DEFAULT '[]' CONSTRAINT longest_gaps_is_a_list CHECK (jsonb_typeof(longest_gaps) = 'array'),
  held                  jsonb CONSTRAINT held_is_an_object CHECK (jsonb_typeof(held) = 'object'),
  confidence            jsonb CONSTRAINT confidence_is_an_object CHECK (jsonb_typeof(confidence) = 'object'),
  refused               jsonb NOT NULL DEFAULT '{}' CONSTRAINT refused_is_an_object CHECK (jsonb_typeof(refused) = 'object'),
  started_at            timestamptz NOT NULL,
  finished_at           timestamptz NOT NULL DEFAULT clock_timestamp(),
  error                 text,
  CONSTRAINT a_run_has_either_a_result_or_an_error CHECK (
    (error IS NULL) = (num_nulls(deposits, withdrawals, equity, profit, realised, unrealised, fees, return_percent, max_drawdown_percent,
                                 drawdown_days, trades, exposure_percent, turnover, gaps, missing_bars, fills_after_gaps, warm_up) = 0)),
  CONSTRAINT used_from_is_before_used_to CHECK (used_from < used_to),
  CONSTRAINT it_is_finished_after_it_started CHECK (finished_at >= started_at)
);
CREATE INDEX backtest_run_market ON backtest_run (market_id);
COMMENT ON TABLE backtest_run IS 'One backtest: what it was of, all that is needed to do it again, and what came out. DELETE takes its trades and its equity with it.';
COMMENT ON COLUMN backtest_run.strategy IS 'The row of strategy that class, params, market and stake were taken from; NULL: the class was named.';
COMMENT ON COLUMN backtest_run.class IS 'The code that decided, as module:Class.';
COMMENT ON COLUMN backtest_run.params IS 'All of its parameters, those left at their defaults as well.';
COMMENT ON COLUMN backtest_run.schedule IS 'At which candles it decided: bucket (each), minute, hour, day.';
COMMENT ON COLUMN backtest_run.market_id IS 'NULL: candles of a file, of no market that is known here.';
COMMENT ON COLUMN backtest_run.source IS 'Where the candles came from: database, or the names of files.';
COMMENT ON COLUMN backtest_run.inputs IS 'Further candles, by name: market, timeframe, candles, first, last.';
COMMENT ON COLUMN backtest_run.asked_from IS 'From when on candles were asked for, as times of opening; NULL: from the first.';
COMMENT ON COLUMN backtest_run.asked_to IS 'Until when, as times of close; NULL: to the newest.';
COMMENT ON COLUMN backtest_run.used_from IS 'When the first candle opened.';
COMMENT ON COLUMN backtest_run.used_to IS 'When the last one closed.';
COMMENT ON COLUMN backtest_run.candles IS 'How many candles it ran over, those of the warm-up included.';
COMMENT ON COLUMN backtest_run.warm_up IS 'How many of the first candles its first decision needed; NULL: it could not be told.';
COMMENT ON COLUMN backtest_run.digest IS 'SHA-256 of the candles and of those of the inputs, so that a change of the data shows.';
COMMENT ON COLUMN backtest_run.settings IS 'Money, fees, slippage, steps and rules of a fill: every field of the settings of a backtest.';
COMMENT ON COLUMN backtest_run.engine IS 'array: targets as one column; bars: called at every candle; exact: through rows, trader, simulator and ledger.';
COMMENT ON COLUMN backtest_run.seed IS 'Of the bootstrap; nothing else is random.';
COMMENT ON COLUMN backtest_run.version IS 'Tallydesk''s version, and the beginning of the SHA-256 of its engines and kit.';
COMMENT ON COLUMN backtest_run.code IS 'SHA-256 of the module of the class, and of those of its base classes that are not Tallydesk''s.';
COMMENT ON COLUMN backtest_run.deposits IS 'Quote that was paid in.';
COMMENT ON COLUMN backtest_run.withdrawals IS 'Quote that was paid out.';
COMMENT ON COLUMN backtest_run.equity IS 'Cash and holdings at the last close, in quote; NULL, like all that follows: it failed.';
COMMENT ON COLUMN backtest_run.profit IS 'Equity minus deposits plus withdrawals.';
COMMENT ON COLUMN backtest_run.realised IS 'From what was sold, at average cost, after fees.';
COMMENT ON COLUMN backtest_run.unrealised IS 'What is held, at the last close, minus its cost.';
COMMENT ON COLUMN backtest_run.fees IS 'In quote, each at the price of its fill; part of realised and unrealised already.';
COMMENT ON COLUMN backtest_run.return_percent IS 'Time-weighted: money that came or went is no return.';
COMMENT ON COLUMN backtest_run.annual_return_percent IS 'What a year would return at this pace; NULL: shorter than a day.';
COMMENT ON COLUMN backtest_run.buy_and_hold_percent IS 'What buying everything once, at the start, would have returned; NULL: there was no candle to buy at.';
COMMENT ON COLUMN backtest_run.max_drawdown_percent IS 'The deepest fall from a peak, at closes.';
COMMENT ON COLUMN backtest_run.drawdown_days IS 'The longest time below a peak, recovered or not.';
COMMENT ON COLUMN backtest_run.sharpe IS 'Mean of the daily returns by their standard deviation, for a year; NULL: they do not vary.';
COMMENT ON COLUMN backtest_run.sortino IS 'The same by the deviation of the losses; NULL: there was no loss.';
COMMENT ON COLUMN backtest_run.calmar IS 'Annual return by the deepest fall; NULL: there was none.';
COMMENT ON COLUMN backtest_run.trades IS 'Sell orders that traded.';
COMMENT ON COLUMN backtest_run.win_percent IS 'How many of a hundred of them realised more than 0; NULL: none was sold.';
COMMENT ON COLUMN backtest_run.profit_factor IS 'All gains by all losses of sell orders; NULL: there was no loss.';
COMMENT ON COLUMN backtest_run.expectancy IS 'Quote that a sell order realised on average; NULL: none was sold.';
COMMENT ON COLUMN backtest_run.exposure_percent IS 'Share of the candles at whose close something was held.';
COMMENT ON COLUMN backtest_run.turnover IS 'What was bought and sold, in mean equities.';
COMMENT ON COLUMN backtest_run.gaps IS 'Over how many gaps of its candles it was computed.';
COMMENT ON COLUMN backtest_run.missing_bars IS 'How many candles are missing in them.';
COMMENT ON COLUMN backtest_run.fills_after_gaps IS 'How many fills came right after one: what the market did in between is unknown.';
COMMENT ON COLUMN backtest_run.longest_gaps IS 'The longest of them, at most 20, by time: from, to, missing.';
COMMENT ON COLUMN backtest_run.held IS 'What buying everything once, at the first chance, and holding made: return, year, falls and ratios as above. NULL: there was no candle to buy at.';
COMMENT ON COLUMN backtest_run.confidence IS 'Stationary bootstrap: level, draws, block, and the interval of return_percent, sharpe, max_drawdown_percent; loss_percent of the draws lost money. NULL: too few days.';
COMMENT ON COLUMN backtest_run.refused IS 'Orders that were decided and not filled: how many, by reason.';
COMMENT ON COLUMN backtest_run.started_at IS 'When the command began, candles not read yet.';
COMMENT ON COLUMN backtest_run.finished_at IS 'When it was stored.';
COMMENT ON COLUMN backtest_run.error IS 'Why it failed, with file and line; NULL: it did not.';

CREATE TABLE backtest_trade (
  run_id       int NOT NULL REFERENCES backtest_run ON DELETE CASCADE,
  number       int NOT NULL,
  decided_at   timestamptz NOT NULL,
  time_close   timestamptz NOT NULL,
  side         order_side NOT NULL,
  price        numeric NOT NULL CONSTRAINT price_is_above_zero CHECK (price > 0),
  quantity     numeric NOT NULL CONSTRAINT quantity_is_above_zero CHECK (quantity > 0),
  quote        numeric NOT NULL,
  fee          numeric NOT NULL,
  fee_in       text NOT NULL CONSTRAINT fee_in_is_base_or_quote CHECK (fee_in IN ('base', 'quote')),
  liquidity    liquidity NOT NULL,
  order_number int NOT NULL,
  realised     numeric CONSTRAINT only_sales_realise CHECK (realised IS NULL OR side = 'sell'),
  after_gap    boolean NOT NULL,
  PRIMARY KEY (run_id, number),
  CONSTRAINT it_is_not_filled_before_it_was_decided CHECK (time_close >= decided_at)
);
COMMENT ON TABLE backtest_trade IS 'A fill of a backtest.';
COMMENT ON COLUMN backtest_trade.number IS 'Counts the fills of a run, from 1, in the order in which they happened.';
COMMENT ON COLUMN backtest_trade.decided_at IS 'The close of the candle at which its order was decided.';
COMMENT ON COLUMN backtest_trade.time_close IS 'The close of the candle in which it was filled: at its open, as a rule.';
COMMENT ON COLUMN backtest_trade.side IS 'buy or sell.';
COMMENT ON COLUMN backtest_trade.price IS 'In quote.';
COMMENT ON COLUMN backtest_trade.quantity IS 'In base.';
COMMENT ON COLUMN backtest_trade.quote IS 'Price times quantity, before the fee.';
COMMENT ON COLUMN backtest_trade.fee IS 'In what fee_in says.';
COMMENT ON COLUMN backtest_trade.fee_in IS 'base: taken from what a buy brought.';
COMMENT ON COLUMN backtest_trade.liquidity IS 'maker: its order waited on the book.';
COMMENT ON COLUMN backtest_trade.order_number IS 'Fills of one order have the same.';
COMMENT ON COLUMN backtest_trade.realised IS 'Of a sale: quote after the fee minus its share of the cost, at average cost.';
COMMENT ON COLUMN backtest_trade.after_gap IS 'The candles before it are missing: where the market stood in between is unknown.';

CREATE TABLE backtest_equity (
  run_id           int NOT NULL REFERENCES backtest_run ON DELETE CASCADE,
  time             timestamptz NOT NULL,
  equity           numeric NOT NULL,
  cash             numeric NOT NULL,
  holding          numeric NOT NULL,
  price            numeric NOT NULL,
  unit_value       numeric NOT NULL,
  held_value       numeric,
  drawdown_percent numeric NOT NULL,
  PRIMARY KEY (run_id, time)
);
COMMENT ON TABLE backtest_equity IS 'What a backtest had, at some closes: of each of 400 equal parts of its candles the first, the last, the highest and lowest equity and price, and the deepest fall; every end of a month, every deposit and withdrawal.';
COMMENT ON COLUMN backtest_equity.time IS 'The close of the candle.';
COMMENT ON COLUMN backtest_equity.equity IS 'Cash and holding, in quote.';
COMMENT ON COLUMN backtest_equity.cash IS 'Quote.';
COMMENT ON COLUMN backtest_equity.holding IS 'Base.';
COMMENT ON COLUMN backtest_equity.price IS 'The close, in quote.';
COMMENT ON COLUMN backtest_equity.unit_value IS 'What one unit of the money that was paid in is worth: 1 at the start.';
COMMENT ON COLUMN backtest_equity.held_value IS 'The same, if everything had been bought once, at the first chance, and held; NULL: there was none.';
COMMENT ON COLUMN backtest_equity.drawdown_percent IS 'How far unit_value is below its highest so far.';

DO $$
DECLARE
  name text;
BEGIN
  FOREACH name IN ARRAY ARRAY['backtest_run', 'backtest_trade', 'backtest_equity'] LOOP
    EXECUTE format('CREATE TRIGGER computed BEFORE INSERT ON %I FOR EACH STATEMENT EXECUTE FUNCTION only_from_processes(%L)', name,
                   'it is what was computed; tallydesk backtest run computes');
    EXECUTE format('CREATE TRIGGER fixed BEFORE UPDATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION refuse(%L)', name,
                   'it is what was computed; run it again, and delete this one from backtest_run');
  END LOOP;
END $$;

CREATE VIEW backtest AS
  SELECT r.id, coalesce(r.strategy, r.class) AS name, r.params, coalesce(e.name || ':' || m.symbol, r.source) AS market, t.name AS timeframe,
         r.used_from, r.used_to, round(r.return_percent, 2) AS return_percent, round(r.buy_and_hold_percent, 2) AS buy_and_hold_percent,
         round(r.annual_return_percent, 2) AS annual_return_percent, round(r.max_drawdown_percent, 2) AS max_drawdown_percent,
         round(r.drawdown_days, 1) AS drawdown_days, round(r.sharpe, 2) AS sharpe,
         round((r.confidence->'sharpe'->>0)::numeric, 2) AS sharpe_low, round((r.confidence->'sharpe'->>1)::numeric, 2) AS sharpe_high,
         round(r.sortino, 2) AS sortino, round(r.calmar, 2) AS calmar, r.trades, round(r.win_percent, 1) AS win_percent,
         round(r.profit_factor, 2) AS profit_factor, trim_scale(round(r.expectancy, 8)) AS expectancy,
         round(r.exposure_percent, 1) AS exposure_percent, round(r.turnover, 1) AS turnover, trim_scale(round(r.fees, 8)) AS fees,
         trim_scale(round(r.profit, 8)) AS profit, trim_scale(round(r.equity, 8)) AS equity, r.gaps, r.missing_bars, r.fills_after_gaps,
         r.candles, r.engine, left(r.code, 12) AS code, left(r.digest, 12) AS digest, r.finished_at, r.error
    FROM backtest_run r
    JOIN timeframe t ON t.id = r.timeframe_id
    LEFT JOIN market m ON m.id = r.market_id
    LEFT JOIN exchange e ON e.id = m.exchange_id
   ORDER BY name, r.id;
COMMENT ON VIEW backtest IS 'Backtests to compare, one row each, by name; rounded for people. backtest_run has all of it.';
COMMENT ON COLUMN backtest.name IS 'That of the strategy''s row, else its class.';
COMMENT ON COLUMN backtest.params IS 'All of its parameters.';
COMMENT ON COLUMN backtest.market IS 'exchange:symbol; of candles of no market, the files that they came from.';
COMMENT ON COLUMN backtest.used_from IS 'When its first candle opened.';
COMMENT ON COLUMN backtest.used_to IS 'When its last candle closed.';
COMMENT ON COLUMN backtest.return_percent IS 'Time-weighted.';
COMMENT ON COLUMN backtest.buy_and_hold_percent IS 'What buying everything once, at the start, would have returned.';
COMMENT ON COLUMN backtest.annual_return_percent IS 'What a year would return at this pace.';
COMMENT ON COLUMN backtest.max_drawdown_percent IS 'The deepest fall from a peak.';
COMMENT ON COLUMN backtest.drawdown_days IS 'The longest time below a peak.';
COMMENT ON COLUMN backtest.sharpe IS 'Sharpe ratio, for a year.';
COMMENT ON COLUMN backtest.sharpe_low IS 'Where it lies by the bootstrap, at the least.';
COMMENT ON COLUMN backtest.sharpe_high IS 'Where it lies by the bootstrap, at the most.';
COMMENT ON COLUMN backtest.sortino IS 'Sortino ratio, for a year.';
COMMENT ON COLUMN backtest.calmar IS 'Annual return by the deepest fall.';
COMMENT ON COLUMN backtest.trades IS 'Sell orders that traded.';
COMMENT ON COLUMN backtest.win_percent IS 'How many of a hundred of them realised more than 0.';
COMMENT ON COLUMN backtest.profit_factor IS 'All gains by all losses.';
COMMENT ON COLUMN backtest.expectancy IS 'Quote that a sell order realised on average.';
COMMENT ON COLUMN backtest.exposure_percent IS 'Share of the candles at whose close something was held.';
COMMENT ON COLUMN backtest.turnover IS 'What was bought and sold, in mean equities.';
COMMENT ON COLUMN backtest.fees IS 'In quote.';
COMMENT ON COLUMN backtest.profit IS 'In quote.';
COMMENT ON COLUMN backtest.equity IS 'At the last close, in quote.';
COMMENT ON COLUMN backtest.gaps IS 'Over how many gaps of its candles it was computed.';
COMMENT ON COLUMN backtest.missing_bars IS 'How many candles are missing in them.';
COMMENT ON COLUMN backtest.fills_after_gaps IS 'How many fills came right after one.';
COMMENT ON COLUMN backtest.candles IS 'How many it ran over.';
COMMENT ON COLUMN backtest.engine IS 'array, bars or exact.';
COMMENT ON COLUMN backtest.code IS 'The same code has the same.';
COMMENT ON COLUMN backtest.digest IS 'The same candles have the same.';
COMMENT ON COLUMN backtest.finished_at IS 'When it was stored.';
COMMENT ON COLUMN backtest.error IS 'Why it failed; NULL: it did not.';

-- A candle that closes at midnight is of the month before.
CREATE VIEW backtest_month AS
  SELECT l.run_id, l.month, round(100 * (l.unit_value / nullif(lag(l.unit_value, 1, 1) OVER (PARTITION BY l.run_id ORDER BY l.month), 0) - 1), 2) AS return_percent
    FROM (SELECT DISTINCT ON (q.run_id, date_trunc('month', q.time - interval '1 us', 'UTC')) q.run_id,
                 date_trunc('month', q.time - interval '1 us', 'UTC') AS month, q.unit_value
            FROM backtest_equity q
           ORDER BY q.run_id, date_trunc('month', q.time - interval '1 us', 'UTC'), q.time DESC) l;
COMMENT ON VIEW backtest_month IS 'What each backtest returned in each month that it had candles of.';
COMMENT ON COLUMN backtest_month.run_id IS 'The row of backtest_run.';
COMMENT ON COLUMN backtest_month.month IS 'Its first moment, UTC.';
COMMENT ON COLUMN backtest_month.return_percent IS 'Time-weighted.';

GRANT SELECT ON backtest_run, backtest_trade, backtest_equity, backtest, backtest_month TO tallydesk_reader, tallydesk_user;
GRANT INSERT ON backtest_run, backtest_trade, backtest_equity TO tallydesk_user;
GRANT DELETE ON backtest_run TO tallydesk_user;
