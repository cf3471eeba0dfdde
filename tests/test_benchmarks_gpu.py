"""benchmarks/gpu.py survives its own checks; what they find is not tested here."""

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from benchmarks.gpu import CHECKS, Check, Lab, Runner, _together, as_markdown
from conftest import PROJECT

FINDS = "import json, pathlib; pathlib.Path({folder!r}, 'findings.json').write_text(json.dumps({found!r}));"


def ran(out: Path, codes: dict[str, str], seconds: float = 60, limit: float = 30) -> dict:
    """The results of checks that are each a line of Python."""
    checks = {name: Check(lambda lab: None, limit, alone=True) for name in codes}
    rows = [{"a": 1, "b": "x|y"}]

    def command(name: str, folder: Path, seconds: float) -> list[str]:
        return [sys.executable, "-c", FINDS.format(folder=str(folder), found={"n": 5, "rows": rows}) + codes[name]]

    Runner(out, seconds, command, least=2, facts={"machine": {"device": "none"}}).run(checks)
    return json.loads((out / "results.json").read_text())["checks"]


def test_a_failed_check_is_a_row_and_the_next_goes_on(tmp_path: Path) -> None:
    results = ran(tmp_path, {"bad": "print('before'); assert False, 'it is wrong'", "good": "pass"})
    assert results["bad"]["status"] == "failed"
    assert results["bad"]["problem"] == "AssertionError: it is wrong"
    assert "before" in results["bad"]["tail"]
    assert results["good"]["status"] == "passed"
    assert results["good"]["findings"]["n"] == 5
    table = (tmp_path / "results.md").read_text()
    assert "| bad | failed |" in table
    assert "## good: rows\n\n| a | b |\n| --- | --- |\n| 1 | x/y |" in table
    assert "before" in (tmp_path / "log.txt").read_text()


def test_a_check_and_all_that_it_started_end_at_its_limit(tmp_path: Path) -> None:
    mark = f"digits-{tmp_path.name}-{time.time_ns()}"
    sleeps = f"[sys.executable, '-c', 'import time; time.sleep(100)', {mark!r}]"
    code = f"import subprocess, sys, time; subprocess.Popen({sleeps}); print('at work', flush=True); time.sleep(100)"
    results = ran(tmp_path, {"slow": code, "next": "pass"}, seconds=30, limit=4)
    assert results["slow"]["status"] == "timed out"
    assert results["slow"]["tail"] == ["at work"]
    assert results["slow"]["findings"]["n"] == 5  # what it found until then
    assert results["next"]["status"] == "passed"
    assert not subprocess.run(["pgrep", "-f", mark], capture_output=True, check=False).stdout


def test_without_time_nothing_is_begun(tmp_path: Path) -> None:
    results = ran(tmp_path, {"one": "pass"}, seconds=3)
    assert results == {"one": {"status": "not run", "problem": "no time was left"}}


def test_what_measures_time_is_alone_and_record_comes_last() -> None:
    groups = [*_together(CHECKS)]
    assert [name for group in groups for name in group] == [*CHECKS]
    assert all(len(group) == 1 or not any(CHECKS[name].alone for name in group) for group in groups)
    assert groups[-1] == ["record"]
    assert math.isinf(CHECKS["record"].limit)


def test_a_command_of_a_check_has_the_right_exit_code_or_fails_it(tmp_path: Path) -> None:
    lab = Lab("x", tmp_path, 60, "cpu", quick=True)
    assert lab.run("-c", "print(7)").out == "7\n"
    assert lab.run("-c", "import sys; sys.exit(3)", code=None).code == 3
    with pytest.raises(AssertionError, match="exit code 1, not 0: error: no such thing"):
        lab.run("-c", "import sys; sys.exit('error: no such thing')")


def test_table_of_nothing_found() -> None:
    assert "| default | not run |" in as_markdown({"checks": {"default": {"status": "not run"}}})


@pytest.mark.slow
def test_the_script_with_tiny_settings(tmp_path: Path) -> None:
    environment = os.environ | {"DEVICE": "cpu", "QUICK": "1", "PYTHON": sys.executable}
    words = [PROJECT / "benchmarks" / "gpu.sh", tmp_path / "out", "600", "--only", "default,diverged"]
    subprocess.run(words, cwd=tmp_path, env=environment, check=True, timeout=600)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {name: one["status"] for name, one in results["checks"].items()} == dict.fromkeys(
        ("default", "diverged"), "passed"
    )
    assert 0 < results["checks"]["default"]["findings"]["test/acc"] < 1
    assert (tmp_path / "out" / "runs.tar.gz").stat().st_size
