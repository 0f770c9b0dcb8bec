"""The simulation of captions runs the server's own schedule: a change there must not break it unnoticed."""

from pathlib import Path

import pytest

_BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_captions_that_decode_together_are_faster_than_one_at_a_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(_BENCHMARKS))
    import caption_policies
    from captioners.costs import DECODERS, ENCODER, Costs, table

    monkeypatch.setattr(caption_policies, "_CAPTIONS", 100)
    caption_policies.compare("LSTM", Costs(table(ENCODER, 16), table(DECODERS["LSTM, fp32"], 64)))
    lines = capsys.readouterr().out.splitlines()
    rates = {line[:32].strip(): float(line[32:].split("/s")[0]) for line in lines[2:]}
    assert 0 < rates["one at a time"] < rates["continuous"]
