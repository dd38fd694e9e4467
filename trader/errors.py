"""Every error that Tallydesk raises on purpose.

TallydeskError
├── ConfigError           a setting is missing or wrong
├── InputError            a file, argument or row that a person gave us is malformed
├── DatabaseError         the database cannot be reached, or is not ours to use
│   └── Unreachable       nobody answers there
├── FencedError           another process has taken this work over: stop, write nothing more
└── ExchangeError
    ├── Refused           known NOT placed: the venue (or ccxt, before sending) said no
    ├── Retry             known NOT placed: the venue was not reached or asks us to come back later
    ├── Unknown           MAYBE placed: nobody can say yet whether the request took effect
    └── Fatal             known NOT placed, and nothing on this account will work until a person acts
"""


class TallydeskError(Exception):
    """Something that Tallydesk was asked to do could not be done."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (self.__doc__ or "").strip())


class ConfigError(TallydeskError):
    """A setting is missing or wrong."""


class InputError(TallydeskError):
    """The input is malformed."""


class DatabaseError(TallydeskError):
    """The database cannot be reached, or is not one that Tallydesk can use."""


class Unreachable(DatabaseError):
    """The database cannot be reached."""


class FencedError(TallydeskError):
    """Another process has taken this work over."""


class ExchangeError(TallydeskError):
    """The exchange did not do what it was asked."""


class Refused(ExchangeError):
    """The venue refused the request: nothing was placed."""


class Retry(ExchangeError):
    """The request was not placed and may be sent again later."""

    def __init__(self, message: str | None = None, *, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after
        """Seconds that the venue asked us to wait, if it said so."""


class Unknown(ExchangeError):
    """The request may or may not have been placed: look it up before anything else."""

    def __init__(self, message: str | None = None, *, exists: bool = False) -> None:
        super().__init__(message)
        self.exists = exists
        """True if the answer proves that an order with our client id is at the venue (a duplicate id)."""


class Fatal(ExchangeError):
    """The venue refuses this account: wrong or revoked key, missing permission, suspended."""
