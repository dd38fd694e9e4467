"""A short run of chaos in every test run; `scripts/chaos` makes longer ones."""

import pytest

from tests.simulation import chaos


@pytest.mark.timeout(300)
def test_a_short_chaos_violates_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert chaos.main(["--minutes", "0.4", "--seed", "7"]) == 0, capsys.readouterr().out
    assert "0 violations" in capsys.readouterr().out


@pytest.mark.timeout(300)
def test_two_power_cuts_violate_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert chaos.main(["--cuts", "2", "--seed", "5"]) == 0, capsys.readouterr().out
    assert "0 violations" in capsys.readouterr().out
