"""The venues' own errors, through ccxt, at a trader: what each leaves behind in the rows, and what is sent again.

For each venue four lists: nothing was placed and it will not be tried again; nothing was placed, later perhaps; nothing
works on this account any more; and what nobody can know, which leaves the order in doubt with its funds held.
"""

from collections.abc import Callable
from typing import Any

import pytest

from tests.venues._desk import VenueDesk

MakeDesk = Callable[..., VenueDesk]
ENDED = ("filled", "canceled", "expired", "rejected", "denied")
Page = int
"""An HTTP status with a page of HTML; anything else is said in the venue's own form."""

REFUSED: dict[str, list[Any]] = {
    "binance": [
        (-2010, "Account has insufficient balance for requested action."),
        (-1013, "Filter failure: NOTIONAL"),
        (-1013, "Filter failure: LOT_SIZE"),
        (-1121, "Invalid symbol."),
        (-1100, "Illegal characters found in a parameter."),
        (-2010, "Order would immediately match and take."),
    ],
    "kraken": [
        "EOrder:Insufficient funds",
        "EOrder:Order minimum not met",
        "EOrder:Cost minimum not met",
        "EOrder:Tick size check failed",
        "EOrder:Orders limit exceeded",
        "EOrder:Post only order",
        "EOrder:Invalid price",
        "EQuery:Invalid asset pair",
        "EGeneral:Invalid arguments",
        "EGeneral:Invalid arguments:volume",
        "EAccount:Invalid permissions:USDT trading restricted",
    ],
    "bybit": [
        (170131, "Balance insufficient"),
        (170140, "Transaction amount lower than the minimum."),
        (170136, "Order quantity lower than the minimum."),
        (170137, "Order volume decimal too long"),
        (170121, "Invalid symbol."),
        (10001, "Request parameter error."),
        (170210, "New order rejected."),
    ],
}
LATER: dict[str, list[Any]] = {
    "binance": [
        429,
        (-1003, "Too many requests."),
        (-1015, "Too many new orders."),
        (-1021, "Timestamp for this request is outside of the recvWindow."),
    ],
    "kraken": [
        "EAPI:Rate limit exceeded",
        "EOrder:Rate limit exceeded",
        "EOrder:Domain rate limit exceeded",
        "EGeneral:Temporary lockout",
        "EAPI:Invalid nonce",
        "EService:Market in cancel_only mode",
        "EService:Market in post_only mode",
    ],
    "bybit": [
        (10006, "Too many visits. Exceeded the API Rate Limit."),
        (10018, "Exceeded the IP Rate Limit."),
        (10002, "invalid request, please check your server timestamp or recv_window param"),
        (170222, "Too many requests in this time frame."),
    ],
}
FATAL: dict[str, list[Any]] = {
    "binance": [(-2014, "API-key format invalid."), (-1022, "Signature for this request is not valid.")],
    "kraken": [
        "EAPI:Invalid key",
        "EAPI:Invalid signature",
        "EGeneral:Permission denied",
        "ETrade:User Locked",
        "EAuth:Account temporary disabled",
    ],
    "bybit": [
        (10003, "API key is invalid."),
        (10004, "error sign!"),
        (10005, "Permission denied, please check your API key permissions."),
        (10008, "Common banned"),
        (170201, "Your account has been restricted for trades."),
    ],
}
IN_DOUBT: dict[str, list[Any]] = {
    "binance": [
        500,
        504,
        (-1000, "An unknown error occurred while processing the request."),
        (-1001, "Internal error; unable to process your request."),
        (-1006, "An unexpected response was received from the message bus."),
        (-1007, "Timeout waiting for response from backend server. Send status unknown; execution status unknown."),
        (-99999, "Something that nobody has seen."),
    ],
    "kraken": [
        500,
        520,
        "EService:Unavailable",
        "EService:Busy",
        "EService:Deadline elapsed",
        "EGeneral:Internal error",
        "EDatabase:Internal error",
        "EGeneral:Invalid arguments:deadline",
        "EGeneral:Invalid arguments:cl_ord_id",
        "EOrder:cl_ord_id is not unique",
        "EOrder:Something that nobody has seen",
    ],
    "bybit": [
        500,
        504,
        (10016, "Internal server error."),
        (170007, "Timeout waiting for response from backend server."),
        (170032, "Network error. Please try again later"),
        (170146, "Order creation timeout"),
        (170149, "Create order failed"),
        (110072, "OrderLinkedID is duplicate"),
        (170141, "Duplicate clientOrderId"),
        (10014, "invalid duplicate request"),
        (12141, "Duplicate clientOrderId."),
        (999999, "Something that nobody has seen"),
    ],
}
CONDITIONS = """
SELECT status::text, in_doubt_since IS NOT NULL AS in_doubt, absences, reason FROM "order" WHERE id = %s
"""


def tell(desk: VenueDesk, error: Any) -> None:
    """The answer to the next order."""
    if isinstance(error, Page):
        desk.venue.fail(error, act=False)
    else:
        desk.venue.say(error)


def test_what_is_refused_is_rejected(desk: VenueDesk) -> None:
    """Rejected with the venue's words, nothing held, never sent again, and the account trades on."""
    errors = REFUSED[desk.venue.ccxt_id]
    desk.start()
    for error in errors:
        tell(desk, error)
        order = desk.wait_for_status(desk.buy(quote_quantity="60"), *ENDED)
        assert order.status == "rejected", (error, order.status, order.reason)
        assert (error if isinstance(error, str) else error[1])[:30] in order.reason
        assert desk.held() == 0
    assert len(desk.venue.creates()) == len(errors)
    assert desk.wait_for_status(desk.buy(quote_quantity="60"), *ENDED).status == "filled"
    desk.check()


def test_what_may_work_later_is_sent_again(desk: VenueDesk) -> None:
    """Known not placed: sent again without a look-up, once, and filled."""
    errors = LATER[desk.venue.ccxt_id]
    desk.deposit("s", 60 * len(errors))
    desk.start()
    for number, error in enumerate(errors, 1):
        tell(desk, error)
        order = desk.wait_for_status(desk.buy(quote_quantity="30"), *ENDED)
        assert order.status == "filled", (error, order.status, order.reason)
        assert desk.value('SELECT attempt FROM "order" WHERE id = %s', order.id) == 2, error
        assert len(desk.venue.creates()) == 2 * number, error
    desk.check()


def test_what_the_account_may_not_do_halts_it(desk: VenueDesk) -> None:
    """Rejected, the account is halted with the venue's words, and nothing is sent until a person has acted."""
    errors = FATAL[desk.venue.ccxt_id]
    desk.start()
    for number, error in enumerate(errors, 1):
        tell(desk, error)
        order = desk.wait_for_status(desk.buy(quote_quantity="60"), *ENDED)
        assert order.status == "rejected", (error, order.status, order.reason)
        account = desk.execute("SELECT halted, halt_reason FROM account")[0]
        assert account.halted, error
        assert account.halt_reason
        assert desk.wait_for_status(desk.buy(quote_quantity="60"), *ENDED).status == "denied"
        assert len(desk.venue.creates()) == number
        desk.execute("UPDATE account SET halted = false, halt_reason = NULL")
    assert desk.held() == 0
    assert desk.value("SELECT count(*) FROM incident WHERE kind = 'account refused'") == len(errors)
    desk.check()


def test_what_nobody_can_know_stays_in_doubt(desk: VenueDesk) -> None:
    """Submitted, in doubt, funds held; looked up and not found; not sent again while it may still arrive."""
    errors = IN_DOUBT[desk.venue.ccxt_id]
    desk.execute("UPDATE account SET receive_window = '60 s'")  # longer than this test takes
    for number in range(len(errors)):
        desk.strategy(f"s{number}", deposit=100)
    desk.start()
    for number, error in enumerate(errors):
        tell(desk, error)
        order = desk.order(f"s{number}", market="venue:BTC/USDT", quote_quantity="60")
        desk.wait_for(
            """SELECT status <> 'submitted' AND status <> 'queued' OR reason LIKE '%%not found%%' FROM "order"
                WHERE id = %s""",
            order,
        )
        state = desk.execute(CONDITIONS, order)[0]
        assert (state.status, state.in_doubt, state.absences) == ("submitted", True, 0), (error, state)
        assert desk.value("SELECT held FROM allowance WHERE strategy = %s AND asset = 'USDT'", f"s{number}") >= 60
    assert len(desk.venue.creates()) == len(errors)
    assert desk.venue.orders() == []
    assert desk.execute("SELECT * FROM invariant_violation") == []


@pytest.mark.parametrize(
    "error",
    [(110072, "OrderLinkedID is duplicate"), (170141, "Duplicate clientOrderId"), (10014, "invalid duplicate request"),
     (12141, "Duplicate clientOrderId."), (170146, "Order creation timeout")],
    ids=lambda error: str(error[0]),
)  # fmt: skip
def test_what_bybit_calls_invalid_although_it_has_the_order(make_venue_desk: MakeDesk, error: Any) -> None:
    """Each disguise of "I have it already", said of an order that it has: found, and never rejected."""
    desk = make_venue_desk("bybit")
    desk.venue.say(error, act=True)
    desk.start()
    order = desk.wait_for_status(desk.buy(quote_quantity="60"), *ENDED)
    assert order.status == "filled", order.reason
    assert len(desk.venue.creates()) == 1
    desk.check()
