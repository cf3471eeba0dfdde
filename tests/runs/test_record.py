"""What a run's folder says when it comes from anywhere: of the right types, and in bounds."""

import json
from pathlib import Path

import pytest

from digits.compare import compare
from digits.runs.record import parse_record
from digits.runs.run import Run


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [1, 1]\nb: &b [*a, *a]\nc: [*b, *b]",  # and so on, to billions
        "[" * 20_000,
        "{a: " * 20_000,
        "a: 1\n" * 200_000,
        "- a\n- b",
        "a: [",
        "\x00",
        "a: ${",
        "a: 1\nb: ${a}",
        "a: ${oc.env:HOME}",
    ],
)
def test_damaged_configs(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"."):
        Run(tmp_path).read_config()


def test_sound_configs(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("a: {b: [1, 2.5, null, true]}")
    assert Run(tmp_path).read_config() == {"a": {"b": [1, 2.5, None, True]}}


@pytest.mark.parametrize(
    "facts",
    [
        *([], 5, {"resumed_at": 5}, {"duration_seconds": "abc"}, {"started_at": 5}, {"data": {"a": 1}}),
        *({"overrides": [""]}, {"overrides": [3]}, {"overrides": "seed=1"}, {"val/acc": "high"}, {"status": None}),
    ],
)
def test_damaged_records(facts: object, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_record(json.dumps(facts))
    (tmp_path / "metrics.json").write_text(json.dumps(facts))
    assert Run(tmp_path).status == "unreadable"
    assert "metrics.json is damaged" in compare([tmp_path])


def test_a_record_nested_too_deep(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("[" * 200_000)
    assert Run(tmp_path).status == "unreadable"
    assert "metrics.json is damaged" in compare([tmp_path])
