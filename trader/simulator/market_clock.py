"""The market clock: which moment of history the replay has reached. Requests themselves run on wall time."""

from dataclasses import asdict, dataclass


@dataclass(slots=True)
class MarketClock:
    """At wall time `wall` the market stood at `market`; it moves `speed` market seconds a wall second, up to `end`."""

    wall: int
    market: int
    speed: float = 1.0
    end: int | None = None

    def now(self, wall: int) -> int:
        """Market time in milliseconds at a wall time in milliseconds."""
        market = self.market + int((wall - self.wall) * self.speed)
        return market if self.end is None else min(market, self.end)

    def set_speed(self, wall: int, speed: float) -> None:
        """Go on from where the market is, at another speed; 0 stops it."""
        self.market, self.wall, self.speed = self.now(wall), wall, speed

    def advance(self, wall: int, milliseconds: int) -> None:
        """Jump ahead."""
        self.market, self.wall = self.now(wall) + milliseconds, wall

    def state(self) -> dict[str, float | int | None]:
        """What to keep so that a restarted simulator goes on where this one would have been."""
        return asdict(self)
