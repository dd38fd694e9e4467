"""The bar of a sweep."""

from collections import namedtuple

import pytest

from trader.cli._sweep_watch import Bar

Look = namedtuple("Look", "done total best")


def test_a_sweep_that_goes_on_begins_where_it_was(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Bar(3) as bar:
        bar.show(Look(166, 663, 1.5))
        (task,) = bar._shown.tasks
        assert (task.completed, task.total) == (166, 663)
        assert task.speed is None  # what others did before is no speed, so no time that is left follows from it
    assert "166/663" in capsys.readouterr().err
