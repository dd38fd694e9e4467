"""Equity: how the worth of each strategy went."""

from procrastinate import App, JobContext

from jobs.app import Job, context_of

TASK = "equity.sample"
SAMPLE_JOB = Job(TASK, queueing_lock=TASK, lock=TASK)

# What cannot be priced is left out of equity: a point without it would be a fall that never was.
SAMPLE = """
INSERT INTO equity_point (strategy_id, equity, unit_value)
SELECT e.strategy_id, e.equity, round(e.unit_value, 18)
  FROM equity e
  LEFT JOIN LATERAL (SELECT equity, unit_value FROM equity_point p WHERE p.strategy_id = e.strategy_id
                      ORDER BY at DESC LIMIT 1) p ON true
 WHERE e.units > 0 AND e.unpriced IS NULL
   AND (p.equity, p.unit_value) IS DISTINCT FROM (e.equity::amount, round(e.unit_value, 18))
 ORDER BY e.strategy_id
ON CONFLICT (strategy_id, at) DO NOTHING
"""

# After a day one point a minute is enough; drawdown keeps what it saw.
THIN = """
DELETE FROM equity_point p
 WHERE p.at < clock_timestamp() - interval '1 day'
   AND EXISTS (SELECT FROM equity_point n WHERE n.strategy_id = p.strategy_id AND n.at > p.at
                AND n.at < date_trunc('minute', p.at) + interval '1 min')
"""


async def sample(job: JobContext) -> None:
    """Write a point for every strategy whose worth is not what its last point says."""
    async with context_of(job).pool.connection() as connection:
        await connection.execute(SAMPLE)


def register(app: App) -> None:
    """Add the tasks of this module."""
    app.task(name=TASK, pass_context=True)(sample)
