"""What the folder of a run remembers: of the right types, in bounds, and choosing no files of somebody else's."""

import json
from pathlib import Path

import pytest
from digits.runs.remembered import experiment_words, parse_record, read_config, read_record, read_yaml, sweep_words

from digits.compare import compare


@pytest.mark.parametrize(
    "words",
    [
        ["experiment=../../stranger/evil"],
        ["+experiment=../../stranger/evil"],
        ["callbacks=[ema,../../stranger/evil]"],
        ["optimizer=adam,../evil"],
        ["model=/etc/evil"],
        ["model=${oc.env:EVIL}"],
        ["logger@_global_.hydra.callbacks=csv"],
        ["+logger@hydra.callbacks.x=csv"],
        ["--config-dir=/stranger"],
        ["-m"],
        [3],
        "seed=1",
        None,
        {"seed": 1},
    ],
)
def test_words_that_lead_elsewhere_are_refused(words: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        experiment_words(words)


def test_words_about_the_experiment_are_kept() -> None:
    words = ["optimizer=sgd", "callbacks=[ema,early_stopping]", "~callbacks.data_figures", "model.dropout=0.3,0.5"]
    words += ["data.root=/some/where", "+experiment=quick", "seed=range(1,4)"]
    assert experiment_words([*words, "hydra.job.name=x", "resume=last", "hydra/launcher=joblib"]) == words


def test_of_a_sweeps_words_those_about_its_jobs_are_kept() -> None:
    kept = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweeper.params.seed=1,2"]
    kept += ["hydra.sweep.subdir=${hydra.job.num}", "hydra.sweep.subdir=job_${hydra:job.num}"]
    left = ["hydra/launcher=../evil", "hydra.launcher.setup=[reboot]", "hydra.sweep.subdir=../../${hydra.job.num}"]
    left += ["hydra.sweep.subdir=/tmp/x${hydra.job.num}", "+hydra.callbacks.x._target_=os.system", "hydra.sweep.dir=/x"]
    assert sweep_words([*kept, *left]) == kept
    with pytest.raises(ValueError, match="no choice of experiment"):
        sweep_words(["hydra.sweeper.params.experiment=../../evil"])


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [1, 1]\nb: &b [*a, *a]\nc: [*b, *b]",  # so it goes on, to billions
        "[" * 20_000,
        "{a: " * 20_000,
        "a: 1\n" * 200_000,
        "- a\n- b",
        "a: [",
        "\x00",
        "a: ${",
    ],
)
def test_damaged_configs(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"."):
        read_config(tmp_path / "config.yaml")


def test_sound_configs(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("a: {b: [1, 2.5, null, true], c: '${a.b}'}")
    assert read_yaml(path) == {"a": {"b": [1, 2.5, None, True], "c": "${a.b}"}}
    assert read_config(path).a.c == [1, 2.5, None, True]


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
    assert read_record(tmp_path) == {}
    assert "metrics.json is damaged" in compare([tmp_path])


def test_a_record_nested_too_deep(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("[" * 200_000)
    assert read_record(tmp_path) == {}
    assert "metrics.json is damaged" in compare([tmp_path])
