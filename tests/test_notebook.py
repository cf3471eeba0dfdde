"""The notebook runs from top to bottom, and is kept without what it printed."""

import json

import pytest
from conftest import PROJECT

NOTEBOOK = PROJECT / "notebooks" / "quickstart.ipynb"


def test_no_outputs_are_kept() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert not [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")]
    assert NOTEBOOK.stat().st_size < 20_000


@pytest.mark.slow
def test_notebook_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ipykernel", reason="ipykernel is not installed: make setup")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: make setup")
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.setenv("PYTHONPATH", str(PROJECT / "src"), prepend=":")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(NOTEBOOK.parent)}}
    ).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    printed = "".join(output.get("text", "") for output in outputs)
    assert "{'train': 4000, 'val': 500, 'test': 500}" in printed
    answers = [line for line in printed.splitlines() if line.startswith("7 (")]
    assert len(answers) == 2
    assert answers[0] == answers[1]  # the saved network is the trained one
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 4
