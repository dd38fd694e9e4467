"""The settings of a backtest: what the venue takes, how orders are filled, what money there is. Checked as given."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from trader.clock import to_milliseconds
from trader.errors import InputError

UNIT = Decimal("1e-8")
"""The finest amount of money or goods where sizes are rounded: venues keep eight places, and so does the simulator."""

MOST = Decimal("1e15")
"""More money than there is."""
FEE = "a share of the amount, from 0 to below 0.5, such as 0.001 for 0.1 %"
COST = "a share of the price, from 0 to below 0.5, such as 0.0002 for 0.02 %"
GRID = "a number above 0 with at most eight decimals; leave it out for none"


class Flow(BaseModel):
    """Money that comes or goes at a moment."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    at: datetime = Field(description="a moment with its time zone, such as 2024-01-01T00:00:00Z")
    amount: Decimal = Field(
        gt=-MOST, lt=MOST, description="quote: above 0 for a deposit, below 0 for a withdrawal, less than 1e15"
    )

    @model_validator(mode="after")
    def _is_one(self) -> "Flow":
        if self.at.tzinfo is None:
            raise ValueError(f"at is {self.at}: a moment with its time zone is needed, such as 2024-01-01T00:00:00Z")
        if self.amount == 0:
            raise ValueError("amount is 0: a deposit is above, a withdrawal below")
        if self.amount % UNIT:
            raise ValueError(f"amount is {self.amount}: at most eight decimals are allowed")
        return self

    @property
    def milliseconds(self) -> int:
        """When, in milliseconds since the epoch."""
        return to_milliseconds(self.at)


class Settings(BaseModel):
    """How a run trades. Every field says in its description what is allowed; docs/backtests.md says what it does."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    deposit: Decimal = Field(
        Decimal(10_000),
        ge=0,
        lt=MOST,
        description="quote that is there from the first bar, from 0 to below 1e15, at most eight decimals",
    )
    flows: tuple[Flow, ...] = Field((), description="later deposits and withdrawals, each with `at` and `amount`")
    stake: Decimal = Field(Decimal(100), gt=0, description="what an entry spends, above 0: percent or quote")
    stake_in_percent: bool = Field(True, description="true: stake is a percentage of the free allowance, false: quote")
    maker: Decimal = Field(Decimal("0.001"), ge=0, lt=0.5, description=FEE)
    taker: Decimal = Field(Decimal("0.001"), ge=0, lt=0.5, description=FEE)
    fee_side: Literal["get", "quote"] = Field(
        "get", description="get (base on buys, quote on sells) or quote (quote on both)"
    )
    spread: Decimal = Field(Decimal(0), ge=0, lt=0.5, description=COST)
    slippage: Decimal = Field(Decimal(0), ge=0, lt=0.5, description=COST)
    slippage_ticks: int = Field(0, ge=0, le=10_000, description="a whole number of ticks from 0 to 10000")
    volume_share: Decimal | None = Field(
        None, gt=0, le=1, description="a share of a bar's volume, above 0, at most 1; leave it out for no limit"
    )
    price_tick: Decimal | None = Field(None, gt=0, description=GRID)
    quantity_step: Decimal | None = Field(None, gt=0, description=GRID)
    quantity_min: Decimal | None = Field(None, gt=0, description=GRID)
    cost_min: Decimal | None = Field(None, gt=0, description=GRID)
    fill: Literal["next_open", "close"] = Field("next_open", description="next_open or close")
    gap: Literal["wait", "skip"] = Field("wait", description="wait or skip")
    file_gaps: Literal["no_trades", "unknown"] | None = Field(
        None,
        description="no_trades or unknown, of the gaps of a file; leave it out for stored candles, which have verdicts",
    )
    limit_fill: Literal["touch", "through"] = Field("touch", description="touch or through")

    @model_validator(mode="after")
    def _fits(self) -> "Settings":
        if self.stake_in_percent and self.stake > 100:
            raise ValueError(f"stake is {self.stake}: at most 100 percent can be spent; set stake_in_percent to false")
        if self.slippage_ticks and self.price_tick is None:
            raise ValueError(f"slippage_ticks is {self.slippage_ticks}: there is no price_tick that it could count")
        if self.spread / 2 + self.slippage >= Decimal("0.5"):
            raise ValueError(f"spread / 2 + slippage is {self.spread / 2 + self.slippage}: below 0.5 is allowed")
        for name in ("deposit", "price_tick", "quantity_step", "quantity_min", "cost_min"):
            value = getattr(self, name)
            if value is not None and value % UNIT:
                raise ValueError(f"{name} is {value}: at most eight decimals are allowed")
        return self

    @property
    def rounded(self) -> bool:
        """Whether sizes are rounded: then amounts are whole numbers of UNIT, as on a venue."""
        return self.quantity_step is not None


def parse_settings(values: Mapping[str, Any]) -> Settings:
    """`values` over the defaults. InputError names each wrong one, its value and what is allowed."""
    try:
        return Settings.model_validate(dict(values))
    except ValidationError as error:
        problems = "; ".join(_problem(problem) for problem in error.errors(include_url=False))
        raise InputError(f"backtest settings: {problems}") from None


def _problem(problem: Any) -> str:
    """One sentence for one error of pydantic."""
    parts = problem["loc"]
    name = ".".join(str(part) for part in parts)
    if problem["type"] == "value_error":
        return f"{name}: {problem['ctx']['error']}" if name else str(problem["ctx"]["error"])
    model: type[BaseModel] = Flow if len(parts) > 2 else Settings
    if problem["type"] == "extra_forbidden":
        return f'unknown setting "{name}": there is {", ".join(model.model_fields)}'
    field = model.model_fields.get(str(parts[-1] if len(parts) > 2 else parts[0]))
    allowed = (field and field.description) or problem["msg"]
    return f"{name} is missing: {allowed}" if problem["type"] == "missing" else f"{name} is {_text(problem)}: {allowed}"


def _text(problem: Any) -> str:
    given = problem["input"]
    return str(given) if isinstance(given, Decimal) else repr(given)
