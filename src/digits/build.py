"""From a config's groups to objects: besides the scripts, the one place that sees a config."""

import copy
import logging
import textwrap
import warnings
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.callbacks import Checkpoint as CheckpointCallback
from lightning.pytorch.utilities.seed import isolate_rng
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from digits import hardware, parts, rehearsal, report
from digits.augmentation import Mixing, by_image
from digits.callbacks import Advice, ProgressBar
from digits.checkpoints import Checkpoint
from digits.classifier import Classifier
from digits.data import DigitsDataModule
from digits.data.own_module import OwnDataModule
from digits.errors import UserError
from digits.loggers import logger_facts, open_loggers
from digits.metrics import direction_of, entries
from digits.networks import RawPixels
from digits.optimizers import make_optimizer
from digits.overrides import READ_BY_BUILD
from digits.resized import inner
from digits.runs.checkpointing import AtomicCheckpoints
from digits.runs.processes import check_processes
from digits.runs.run import Run
from digits.schedules import make_schedule
from digits.targets import make_kind, packages, parameters_of, target_of
from digits.teacher import DistillationSettings, Teacher, open_teachers
from digits.validation import user_errors
from digits.views import TtaSettings

if TYPE_CHECKING:
    from digits.rejection import FitGate

WHITENED = 1_500_000  # pixels are enough for the statistics of their patches: 2,000 images of 28×28
TRIES = 10  # of an augmentation: what it does by chance should be among them

log = logging.getLogger(__name__)


def data(cfg: DictConfig, run: Run) -> DigitsDataModule:
    """The data of a training, loaded; the record and the config then say what was loaded."""
    found = data_module(cfg, by_image(instantiate(cfg.augmentation, _convert_="all")))
    if known := found.image_size is not None:
        _rehearse_augmentation(cfg, found)
    found.prepare_data()
    found.setup()
    if not known:  # they are as large as the files are
        _rehearse_augmentation(cfg, found)
    if rehearsal.announced_shape(cfg.data) is None:
        rehearsal.rehearse(cfg, found.shape)
    found.mixing = _mixing(cfg, found.num_classes)
    found.teacher = _teacher(cfg, found, run)
    if isinstance(found, DigitsDataModule) and found.dataset != cfg.data.dataset:  # the fall-back
        cfg.data.dataset, cfg.data.val_size = found.dataset, len(found.splits.val)
    run.update(seed=cfg.seed, dataset=found.dataset, data=found.name, split_sizes=found.split_sizes)
    if typed := report.typed_images(found):
        run.update(typed_images=typed)
    log.info("%s", report.data_statistics(found))
    return found


def _teacher(cfg: DictConfig, data: DigitsDataModule, run: Run) -> Teacher | None:
    """Who labels the training images, if anybody; the record and the config then say who, wherever a run resumes."""
    if not cfg.get("teacher"):  # not in the config of an older run
        return None
    with user_errors("distillation"):
        settings = DistillationSettings.model_validate(_plain(cfg.distillation))
    made = Teacher(open_teachers(cfg.teacher, data, packages(cfg.trust)), settings)
    cfg.teacher = [one["ckpt_path"] for one in made.facts]
    run.update(distillation=made.settings | {"teachers": made.facts})
    log.info("teacher: %s", made)
    return made


def data_module(cfg: DictConfig, augmentation: nn.Module | None = None) -> Any:
    """The data that the group `data` asks for, not loaded: this project's module or an adapted one of the user's."""
    kind = target_of("data", cfg.data)
    if isinstance(kind, type) and issubclass(kind, DigitsDataModule):
        return instantiate(cfg.data, augmentation=augmentation, _convert_="all")
    return OwnDataModule(_plain(cfg.data), cfg.seed, augmentation)


def _mixing(cfg: DictConfig, num_classes: int) -> Mixing:
    counts = "num_classes" in parameters_of(target_of("mixing", cfg.mixing))
    made: Mixing = instantiate(cfg.mixing, **({"num_classes": num_classes} if counts else {}), _convert_="all")
    return made


def _rehearse_augmentation(cfg: DictConfig, data: DigitsDataModule) -> None:
    """Augments and mixes two random images, often enough to meet what happens by chance.

    Raises:
        UserError: if that fails, or what comes out is no such batch.
    """
    size = int(data.image_size or 0)
    parts: dict[str, Mixing] = {
        "augmentation": lambda images, target: (data.augmentation(images), target),
        "mixing": _mixing(cfg, num_classes=2),  # how many there are, only the data say
    }
    with isolate_rng(include_cuda=False):  # the run's own random numbers stay as they are
        for part, transform in TRIES * [*parts.items()]:
            if problem := _problem_of(transform, (2, data.in_channels, size, size)):
                raise UserError(f"{part}._target_={cfg[part]._target_}: {problem}")


def _problem_of(transform: Mixing, shape: tuple[int, ...]) -> str | None:
    """Why what a transform makes of a batch of two random images of two classes is no batch; None if it is one."""
    try:
        images, target = transform(torch.rand(shape), torch.tensor([0, 1]))
        if images.shape != shape or images.dtype != torch.float32:
            return f"makes {images.dtype} {tuple(images.shape)} of images torch.float32 {shape}"
        if target.shape[0] != 2 or target.ndim > 2:
            return f"makes a target {tuple(target.shape)}, neither (B,) nor (B, num_classes), of one (B,)"
    except Exception as error:  # anybody's code may fail in any way
        return f"{type(error).__name__}: {textwrap.shorten(str(error), 200)}"
    return None


def trainer(cfg: DictConfig, run: Run, data: DigitsDataModule, resumed: Checkpoint | None) -> L.Trainer:
    """The trainer of a training: device, precision, loggers, and the callbacks that write into the run's folder."""
    device_type = hardware.device_type(cfg.trainer.accelerator)
    fit_gate(cfg)  # which is not needed before the end; what is wrong is said now
    if cfg.trainer.profiler and not isinstance(cfg.trainer.profiler, str):
        raise UserError(f"trainer.profiler={cfg.trainer.profiler}: there are simple, advanced and pytorch")
    step = resumed.content["global_step"] if resumed else 0
    validated = bool(len(data.splits.val) and cfg.trainer.limit_val_batches)
    made = _trainer(
        cfg,
        run,
        precision=hardware.resolve_precision(cfg.trainer.precision, device_type),
        callbacks=list(_callbacks(cfg, run, validated)),
        plugins=[AtomicCheckpoints(run.home)],
        logger=open_loggers(cfg.logger, run, step if run.resumed else None),
    )
    if cfg.trainer.profiler:
        profiler = made.profiler  # type: ignore[attr-defined] # undeclared by Lightning
        profiler.dirpath, profiler.filename = run.folder, "profile"
    known = {entry.name: entry.facts for entry in entries(cfg.metrics)}
    run.update(**logger_facts(made), metrics=known)
    return made


def evaluator(cfg: DictConfig, run: Run, checkpoints: list[Checkpoint], reports: bool = True) -> L.Trainer:
    """A trainer that only tests: for one of several checkpoints, without a report."""
    hardware.device_type(cfg.trainer.accelerator)
    run.update(tta=cfg.tta, tta_below=cfg.tta_below if cfg.tta else None)
    if cfg.tta and reports:
        log.info("tta:    the mean of %s for each image with a highest probability below %g", cfg.tta, cfg.tta_below)
        log.info("        a mean of calibrated probabilities is a little too modest: see their figures below")
    precisions = {checkpoint.settings["precision"] for checkpoint in checkpoints}
    weights = precisions.pop() if len(precisions) == 1 else "32-true"  # each member keeps its weights' own type
    return _trainer(
        cfg,
        run,
        precision=hardware.evaluation_precision(cfg.trainer.precision, weights),
        callbacks=[*_callbacks(cfg, run, validated=False)] if reports else [Advice()],
        logger=False,
    )


def tested_network(cfg: DictConfig, checkpoint: Checkpoint) -> nn.Module:
    """A checkpoint's network, with test-time augmentation if that is asked for."""
    with user_errors(""):
        settings = TtaSettings(tta=cfg.tta, tta_below=cfg.tta_below)
    return settings.applied(checkpoint.network(), checkpoint.facts)


def _trainer(cfg: DictConfig, run: Run, **parts: Any) -> L.Trainer:
    quiet_libraries()
    hardware.plain_float32()
    bar = [ProgressBar(refresh_rate=10)] if cfg.trainer.enable_progress_bar else []
    parts["callbacks"] = [*bar, *parts["callbacks"]]
    made: L.Trainer = instantiate(cfg.trainer, default_root_dir=str(run.folder), **parts, _convert_="all")
    check_processes(made)
    run.update(device=hardware.describe_device(made.strategy.root_device, made.world_size), precision=made.precision)
    log.info("run:    %s\ndevice: %s, precision %s", run.folder, run.facts["device"], made.precision)
    return made


def _callbacks(cfg: DictConfig, run: Run, validated: bool) -> Iterator[Callback]:
    """The callbacks of a config: each gets the run if it wants it, a folder in it, and its metric's direction."""
    for name, part in cfg.callbacks.items():
        if not part:
            continue
        kind = target_of(f"callbacks.{name}", part)
        arguments = _direction(f"callbacks.{name}", cfg, kind)
        if "run" in parameters_of(kind):
            arguments["run"] = run
        if part.get("dirpath") is not None:
            arguments["dirpath"] = str(run.folder / part.dirpath)
        if not (isinstance(kind, type) and issubclass(kind, CheckpointCallback)):
            _check_comes(f"callbacks.{name}", part, validated)  # without validation there is no best checkpoint
        yield make_kind(f"callbacks.{name}", part, Callback, **arguments)


def _network_settings(cfg: DictConfig, data: DigitsDataModule) -> dict[str, Any]:
    return parts.network_settings(_plain(cfg.model), data.shape, **_plain(cfg.model_input))


def _some_images(data: DigitsDataModule) -> Tensor:
    images = data.splits.train.images
    step = max(1, len(images) * images[0].numel() // WHITENED)  # from all: files may be sorted by class
    return RawPixels(nn.Identity(), data.mean, data.std)(images[::step])


def _loss_settings(cfg: DictConfig, data: DigitsDataModule) -> dict[str, Any]:
    return parts.loss_settings(_plain(cfg.loss), data.splits.train.target.numpy(), data.num_classes)


def classifier(cfg: DictConfig, data: DigitsDataModule) -> Classifier:
    """The network for the data's images and classes, with its loss, metrics, optimizer and schedule."""
    network = parts.make_network(_network_settings(cfg, data), cfg.pretrained, cfg.freeze, partial(_some_images, data))
    validated = bool(len(data.splits.val) and cfg.trainer.limit_val_batches)
    _check_comes("scheduler", cfg.scheduler, validated)
    schedule = _plain(cfg.scheduler) | _direction("scheduler", cfg, target_of("scheduler", cfg.scheduler))
    optimizer = _plain(cfg.optimizer)
    # What the classifier reads; the rest are arguments of the optimizer's and the schedule's own classes.
    read: dict[str, Any] = {
        name: part.pop(name)
        for group, part in (("optimizer", optimizer), ("scheduler", schedule))
        for name in READ_BY_BUILD[group] - {"_partial_"}
        if name in part
    }
    made = Classifier(
        network,
        data.num_classes,
        optimizer=instantiate(optimizer | {"_partial_": True}, _convert_="all"),
        scheduler=instantiate(schedule | {"_partial_": True}, _convert_="all"),
        **read,
        loss=instantiate(_loss_settings(cfg, data), _convert_="all"),
        metrics=entries(cfg.metrics),
        compile=cfg.get("compile"),  # which older runs have not
    )
    _rehearse(made)
    return made


def _rehearse(classifier: Classifier) -> None:
    """Steps optimizer and schedule once, on a copy of the network: bad arguments show before training does.

    Raises:
        UserError: if either does not work with its arguments.
    """
    assert classifier.make_optimizer
    assert classifier.make_scheduler
    # A copy, because a step may change it, even without gradients.
    network = copy.deepcopy(inner(classifier.network))
    part = "optimizer"
    try:
        optimizer = make_optimizer(classifier.make_optimizer, network, classifier.groups, classifier.no_decay)
        part = "scheduler"
        scheduler = make_schedule(classifier.make_scheduler, optimizer, lambda _: 10)
        part = "optimizer"
        optimizer.step(lambda: 0.0)  # some, as LBFGS, need the loss
        part = "scheduler"
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(0.0)
        else:
            scheduler.step()
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"{part}: {error}. See its keys with --cfg job") from error


def settings(cfg: DictConfig, data: DigitsDataModule, trainer: L.Trainer) -> dict[str, Any]:
    """What a checkpoint keeps, as plain types: what rebuilds network, loss, metrics and data, and the recipe."""
    plain = _plain(cfg)
    recipe = {name: plain[name] for name in ("optimizer", "scheduler", "augmentation", "mixing", "seed")}
    recipe["model"] = parts.without_pretraining(_network_settings(cfg, data))
    recipe |= {"loss": _loss_settings(cfg, data), "metrics": plain["metrics"]}
    recipe["distillation"] = data.teacher.settings if data.teacher else {}
    return {**recipe, "data": data.settings, "precision": trainer.precision}


def fit_gate(cfg: DictConfig) -> "FitGate | None":
    """Fits the gate of the tested checkpoint; None in a fold of a cross-validation, which nobody predicts with.

    Raises:
        UserError: for a setting out of range.
    """
    if "rejection" not in cfg:  # in the config of an older run
        return None
    from digits.rejection import GateSettings
    from digits.rejection import fit_gate as fit

    with user_errors("rejection"):
        settings = GateSettings.model_validate(_plain(cfg.rejection))
    return partial(fit, settings=settings) if settings.passes and not cfg.data.get("folds") else None


def _direction(key: str, cfg: DictConfig, kind: Any) -> dict[str, Any]:
    """The `mode` of what watches a metric, where it takes one: whether the higher or the lower value is better.

    Raises:
        UserError: for a metric that no run logs, or a mode that contradicts it.
    """
    part = OmegaConf.select(cfg, key)
    if part.get("monitor") is None:
        return {}
    mode = direction_of(part.monitor, key, entries(cfg.metrics))
    if part.get("mode") not in (None, mode):
        raise UserError(f"{key}.mode={part.mode}: of {part.monitor}, the {mode}imum is best. Leave mode out")
    takes_mode = any(one.name == "mode" or one.kind == one.VAR_KEYWORD for one in parameters_of(kind).values())
    return {"mode": mode} if takes_mode else {}


def _check_comes(key: str, part: DictConfig, validated: bool) -> None:
    """A schedule or a callback that waits for a figure which never comes would fail an epoch later."""
    monitor = part.get("monitor")
    if monitor and monitor.startswith("val/") and not validated:
        raise UserError(f"{key} watches {monitor}, but nothing is validated. Choose another, or set data.val_size")


def _plain(cfg: DictConfig) -> dict[str, Any]:
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    return plain


def quiet_libraries() -> None:
    """Silences libraries' news and advice that are wrong or noise here; to be called once lightning is imported."""
    # Devices, loggers and limits: the scripts say in two lines what there is to say.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",  # a batch is one gather in memory: worker processes only cost
        ".*is smaller than the logging interval.*",  # everything is logged by epoch
        r".*isinstance\(treespec, LeafSpec\).* is deprecated.*",  # Lightning on this torch
        r".*module\(s\) in eval mode at the start of training.*",  # `freeze` means it
        ".*CUDA is not available or torch_xla is imported.*",
        ".*Total length of `list` across ranks is zero.*",  # data.val_size=0 means it
        r".*ModelCheckpoint\(monitor=.*could not find the monitored key.*",
        # torchmetrics has gathered from all processes by then: what is logged is the same in each.
        ".*It is recommended to use `self.log.*sync_dist=True.*",
        # A resumed run writes into its own folder, and its batches do begin where they ended.
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*your dataloader is not resumable.*",
    ):
        warnings.filterwarnings("ignore", message=message)
