"""Checkpoints: weights with what rebuilds the network and its data, and the figures of these very weights.

`hyper_parameters` of a checkpoint is plain data: `model`, `loss`, `metrics`, `data` and `precision` rebuild the
network, its data and its figures; the rest (optimizer, scheduler, augmentation, mixing, distillation, seed) is the
recipe, for the record. `confidence`, added when training is over, says how sure the answers of these weights are: the
temperature of their logits, and the gate's weights. `digits_format` says which version of this project can read it.
Code of packages that it names runs only where the user trusts them: see `digits.targets`.
"""

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, JsonValue, ValidationError
from torch import Tensor, nn

from digits.archive import WANTED, dumps, load, loads, read_extra, save
from digits.data.settings import TrainedData
from digits.errors import UserError, one_line_errors
from digits.model_facts import ModelFacts, Share, Temperature
from digits.runs.run import Run, newest_checkpoint
from digits.targets import make, target_of, untrusted
from digits.validation import problem_of

if TYPE_CHECKING:
    from digits.classifier import Classifier
    from digits.data import DigitsDataModule
    from digits.gate import Gate

FORMAT = 3  # raise it with each change of what a checkpoint holds
# Of these, a file may choose every argument: they check them.
OURS = ("digits.networks", "digits.torchvision_networks", "digits.resized")
MOST = 5_000  # the sum of any other class's numbers: a file must not ask for endless layers
LARGE_IMAGE = 128  # pixels: to have a network of a file answer about a larger one could take much memory
DESCRIPTION = "digits.json"  # in a file of weights alone, beside them
GATE = "gate.pt"  # there too: the gate's weights, as torch writes them
CONFIDENCE = "confidence"  # key of what is added when training is over
PREFIX = "network."  # of the network's weights among those of the LightningModule

log = logging.getLogger(__name__)


def _are_weights(content: Any) -> bool:
    """Whether it is what a `state_dict` is."""
    return isinstance(content, dict) and all(isinstance(name, str) and _is_plain(content[name]) for name in content)


def _is_plain(value: Any) -> bool:
    """Whether it is a tensor of finite numbers, dense and with all of them in the file."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_meta or value.is_complex():
        return False
    stored = value.untyped_storage().nbytes() // value.element_size()
    return value.numel() <= stored and bool(not value.is_floating_point() or value.isfinite().all())


def _checked_weights(content: dict[str, Tensor]) -> dict[str, Tensor]:
    if not _are_weights(content):
        raise ValueError("should be weights, finite numbers")
    return content


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of this project, opened on the CPU."""

    path: Path  # of its file, to name it in errors
    content: dict[str, Any]  # what Lightning and this project wrote
    trust: Collection[str] = ()  # packages, besides those of `digits.targets`, whose code it may name

    @classmethod
    def open(cls, path: str | Path, trust: Collection[str] = ()) -> Self:
        """Opens a checkpoint, or the best one of a run's folder. Nothing in the file is run.

        Raises:
            UserError: if there is no such file, or it is not a checkpoint that this version of the project wrote.
        """
        path = Path(path).expanduser()
        if path.is_dir():
            path = Run(path).checkpoint or path
        content: dict[str, Any] = {}
        if path.is_file():
            content = load(path)
            problem = _problem(content)
        else:
            what = "a folder, but no run's with a checkpoint" if path.is_dir() else "no such file"
            problem = f"{what}. Give a checkpoint or a run's folder: logs/train/runs/<run>"
        if problem:
            raise UserError(f"{path}: {problem}")
        return cls(path, content, trust)

    @property
    def settings(self) -> dict[str, Any]:
        """The run's settings: `model`, `loss`, `metrics`, `data`, `precision`, `seed`, and the recipe."""
        return self.content["hyper_parameters"]

    @property
    def figures(self) -> dict[str, float]:
        """What validation found for these very weights; empty where they were not validated."""
        return self.content.get("figures", {})

    @property
    def confidence(self) -> "Confidence":
        """How sure its answers are; nothing is known of it in an older checkpoint."""
        return Confidence(**self.content.get(CONFIDENCE, {}))

    @property
    def facts(self) -> ModelFacts:
        return self.confidence.added_to(ModelFacts.of(self.settings["data"]))

    def gate(self) -> "Gate | None":
        """Builds the gate that says no to what is none of the classes, if it has one.

        Raises:
            UserError: if its weights do not fit.
        """
        return build_gate(self.confidence.gate, self.facts, self.path)

    def network(self) -> nn.Module:
        """Builds the network and gives it the weights.

        Raises:
            UserError: if it names code that is not trusted, or its weights do not fit.
        """
        return _build_network(self.settings["model"], self.facts, self._weights(PREFIX), self.path, self.trust)

    def classifier(self, network: nn.Module) -> "Classifier":
        """A network, this one's or several as one, with the loss and the metrics of training.

        Raises:
            UserError: if it names code that is not trusted, or cannot be made.
        """
        from digits.classifier import Classifier
        from digits.metrics import entries

        parts = {name: self.settings[name] for name in ("loss", "metrics")}
        _check_trusted(self.path, parts, self.trust)
        for part in (parts["loss"], *parts["metrics"].values()):
            _check_bounds(self.path, part, self.trust)
        with one_line_errors(self.path, "its loss or its metrics cannot be made"):
            loss = make(parts["loss"])
            if isinstance(loss, nn.Module):
                loss.load_state_dict(self._weights("loss."))
            metrics = entries(parts["metrics"])
            return Classifier(network, len(self.facts.class_names), loss=loss, metrics=metrics)

    def _weights(self, prefix: str) -> dict[str, Tensor]:
        weights = self.content["state_dict"].items()
        return {name.removeprefix(prefix): value for name, value in weights if name.startswith(prefix)}

    def data(self, **overrides: Any) -> "DigitsDataModule":
        """Loads the data that the network was trained on, or what the overrides ask for: see `digits.data.restore`."""
        from digits.data.restore import restore_data

        _check_trusted(self.path, {"data": self.settings["data"]}, self.trust)
        return restore_data(self.settings["data"], **overrides)


class Confidence(BaseModel):
    """How sure the answers of a checkpoint's weights are. Without a gate's weights nothing is rejected."""

    model_config = ConfigDict(strict=True, extra="forbid", arbitrary_types_allowed=True)
    temperature: Temperature | None = None  # of their logits; None: they are not calibrated
    reject_below: Share = 0.0
    gate: Annotated[dict[str, Tensor], AfterValidator(_checked_weights)] | None = None

    def added_to(self, facts: ModelFacts) -> ModelFacts:
        return replace(facts, temperature=self.temperature or 1.0, reject_below=self.reject_below)


def add_confidence(path: Path, confidence: Confidence) -> None:
    """Adds to a checkpoint how sure its answers are. What a run resumes from stays as it is."""
    save(load(path) | {CONFIDENCE: dict(confidence)}, path)


def build_gate(weights: Mapping[str, Tensor] | None, facts: ModelFacts, path: Path) -> "Gate | None":
    """A gate, in evaluation mode, with these weights; None without.

    Raises:
        UserError: if they do not fit the facts, naming the path.
    """
    if weights is None:
        return None
    from digits.gate import Gate

    with one_line_errors(path, "its gate's weights are none, or of other classes than it names"):
        gate = Gate(facts.channels, len(facts.class_names)).eval()
        gate.load_state_dict(weights)
    return gate


class NetworkDescription(BaseModel):
    """What a file of weights alone needs besides, to be read again: the network's settings and its facts."""

    model_config = ConfigDict(strict=True, extra="forbid")
    model: dict[str, JsonValue]
    facts: ModelFacts


def save_state_dict(
    network: nn.Module, model: Mapping[str, Any], facts: ModelFacts, path: Path, gate: nn.Module | None = None
) -> None:
    """Writes a network's `state_dict`, which plain `torch.load` reads, and with it what `open_state_dict` needs.

    `model` are the network's settings: `_target_` and its arguments, as plain types.
    """
    extra = {DESCRIPTION: NetworkDescription(model=dict(model), facts=facts).model_dump_json().encode()}
    if gate:
        extra[GATE] = dumps(plain_weights(gate))
    save(plain_weights(network), path, extra)


def plain_weights(network: nn.Module) -> dict[str, Tensor]:
    """Its `state_dict`, on the CPU."""
    return {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}


def open_state_dict(path: Path, trust: Collection[str] = ()) -> "tuple[nn.Module, ModelFacts, Gate | None]":
    """Rebuilds the network, on the CPU, of a file that `save_state_dict` wrote, and its gate. Nothing in it is run.

    Raises:
        UserError: if the file is damaged, says nothing of its network, or something that does not fit its weights.
    """
    weights, text = load(path), read_extra(path, DESCRIPTION)
    try:
        described = text and NetworkDescription.model_validate_json(text)
    except ValidationError:
        described = None
    if not described or not _are_weights(weights):
        raise UserError(
            f"{path}: no weights with their network's settings, class names and normalisation, as train.py and"
            " digits.export write them. Give the run's best.ckpt, or what the file lacks:"
            " load_classifier(path, network=CNN(), facts=ModelFacts(...))"
        )
    network = _build_network(described.model, described.facts, weights, path, trust)
    content = read_extra(path, GATE)
    gate = None if content is None else loads(content, path)
    if gate is not None and not _are_weights(gate):
        raise UserError(f"{path}: damaged: its gate is no weights. Take another copy of it")
    return network, described.facts, build_gate(gate, described.facts, path)


def _build_network(
    model: Mapping[str, Any], facts: ModelFacts, weights: dict[str, Tensor], path: Path, trust: Collection[str]
) -> nn.Module:
    """Builds a network from its settings and gives it the weights.

    Raises:
        UserError: if the settings name code that is not trusted or no network, or the weights do not fit.
    """
    _check_trusted(path, {"model": dict(model)}, trust)
    targets = [str(value) for key, value in _leaves(model) if key == "_target_"]
    foreign = any(target.partition(".")[0] in trust for target in targets)
    _check_bounds(path, model, trust)
    with one_line_errors(path, f"its weights are of another architecture than its settings say ({', '.join(targets)})"):
        # On the device meta there are shapes alone: whatever sizes the settings name take no memory.
        network = _assembled(model, weights, "cpu" if foreign else "meta")
        if facts.image_size > LARGE_IMAGE and not foreign:
            with torch.device("meta"):  # for which torch imports its compiler: small images should not wait
                _check_answers(make(model), facts)
        if any(buffer.is_meta for buffer in network.buffers()):  # one that is not among the weights
            network = _assembled(model, weights, "cpu")
        if facts.image_size <= LARGE_IMAGE or foreign:
            _check_answers(network, facts)
    return network


def _assembled(model: Mapping[str, Any], weights: dict[str, Tensor], device: str) -> nn.Module:
    """The network with its weights, in the type that they were saved in; raises whatever does not fit."""
    with torch.device(device):
        network: nn.Module = make(model)
    network.load_state_dict(weights, assign=True)
    return network


@torch.no_grad()
def _check_answers(network: nn.Module, facts: ModelFacts) -> None:
    """Asks about one blank image; raises unless there is an answer for each class."""
    dtype = next((weight.dtype for weight in network.parameters()), None)
    answer = network.eval()(torch.zeros(1, facts.channels, facts.image_size, facts.image_size, dtype=dtype))
    network.train()
    if answer.shape != (1, len(facts.class_names)):
        raise ValueError(f"{answer.shape[-1]} answers for {len(facts.class_names)} classes")


def _check_trusted(path: Path, settings: Mapping[str, Any], trust: Collection[str]) -> None:
    if problem := untrusted(dict(settings), trust):
        raise UserError(f"{path}: {problem}")


def _leaves(settings: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Each value of plain settings, with the last key that leads to it."""
    if isinstance(settings, Mapping | list):
        for key, value in settings.items() if isinstance(settings, Mapping) else ((name, part) for part in settings):
            yield from _leaves(value, key)
    else:
        yield name, settings


def _check_bounds(path: Path, settings: Any, trust: Collection[str]) -> None:
    """Refuses settings that could take memory or time without bound, or download something; not of trusted code."""
    leaves = list(_leaves(settings))
    made = [target_of("settings", {"_target_": value}) for name, value in leaves if name == "_target_"]
    if all(one.__module__ in OURS or one.__module__.partition(".")[0] in trust for one in made):
        return
    numbers = sum(abs(value) for _, value in leaves if isinstance(value, int | float))
    if not numbers <= MOST or any(name.startswith(("weights", "pretrained")) and value for name, value in leaves):
        raise UserError(f"{path}: its settings name weights to download, or numbers that add up to more than {MOST:,}")


def _problem(content: Any) -> str | None:
    """Why the content of a file is no checkpoint that this version can read; None if it is one."""
    if not isinstance(content, dict) or "state_dict" not in content:
        values = list(content.values()) if isinstance(content, dict) else []
        what = "weights alone, no checkpoint" if values and all(map(torch.is_tensor, values)) else "no checkpoint"
        return f"{what}. {WANTED}"
    written = content.get("digits_format")
    number: int | None = written if type(written) is int else None
    if number in (None, FORMAT) and not _has_settings(content):  # another version may have others
        return f"another project's checkpoint, without the settings that this one writes. {WANTED}"
    if number != FORMAT:
        age = "a newer" if number is not None and number > FORMAT else "an older"
        found = "without a format" if number is None else f"format {number}"
        return (
            f"of {age} version of this project ({found}; this one reads {FORMAT})."
            " Use the version that wrote it, or train again"
        )
    damage = problem_of(Confidence, content.get(CONFIDENCE, {}), CONFIDENCE)
    return damage and f"damaged: {damage}. Take another copy of it"


def _has_settings(checkpoint: Any) -> bool:
    """Whether it has what train.py puts in, of the types and in the ranges of that: a file can come from anywhere."""
    match checkpoint:
        case {
            "state_dict": dict(weights),
            "hyper_parameters": {
                "model": dict(),
                "loss": dict(),
                "metrics": dict(),
                "data": dict(data),
                "precision": str(),
            },
        }:
            return problem_of(TrainedData, data, "data") is None and _are_weights(weights)
    return False


def open_all(paths: str | Sequence[str] | None, log_dir: str, trust: Collection[str] = ()) -> list[Checkpoint]:
    """The checkpoints to evaluate together, each given by its file or its run's folder; None: the newest run's.

    Raises:
        UserError: if there is none, one is there twice, or they have no test images in common.
    """
    from digits.data.restore import check_one_test_set

    given: list[Any] = [paths] if isinstance(paths, str) or paths is None else list(paths)
    if not given or not all(isinstance(path, str | None) for path in given):
        raise UserError(
            f"ckpt_path={paths}: give a checkpoint or a run's folder, or several: ckpt_path=[a.ckpt,b.ckpt]"
        )
    checkpoints = [Checkpoint.open(path or newest_checkpoint(log_dir), trust) for path in given]
    opened = {str(checkpoint.path): checkpoint.settings["data"] for checkpoint in checkpoints}
    if len(opened) < len(checkpoints):
        raise UserError("ckpt_path has the same checkpoint twice: it would only count double")
    check_one_test_set(opened)
    measured = [(one.settings["loss"], one.settings["metrics"]) for one in checkpoints]
    if any(others != measured[0] for others in measured):
        log.warning("ckpt_path: losses or metrics of training differ; all are measured by those of %s", given[0])
    return checkpoints
