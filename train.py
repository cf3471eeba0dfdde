"""Trains, tests and reports:  python train.py optimizer=sgd trainer.max_epochs=25"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from digits.atomic import atomic_write
from digits.command import check_overrides, check_targets, command
from digits.errors import UserError
from digits.runs.processes import check_processes
from digits.runs.record import RunRecord, tested_checkpoint
from digits.runs.remembered import plain_dict
from digits.runs.signals import Stop
from digits.runs.sweeps import go_on_words, job_overrides, resumed_config

if TYPE_CHECKING:
    from digits.classifier import Classifier
    from digits.data import DigitsDataModule

log = logging.getLogger(__name__)


@command("train")
def main(cfg: DictConfig) -> float | None:
    """Leaves a run's folder behind and returns the best val/acc, for sweeps to maximise."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    with RunRecord(folder, go_on=go_on_words(folder), resumed=bool(cfg.resume)) as record, Stop() as stop:
        check_overrides(cfg)
        if cfg.resume:
            cfg, planned_epochs = resumed_config(cfg)
            if record.before.get("status") == "completed" and cfg.trainer.max_epochs <= planned_epochs:
                log.info("finished: %s. More epochs than %s would go on: trainer.max_epochs=", folder, planned_epochs)
                return record.before.get("val/acc")
        check_targets(cfg)
        record.update(seed=cfg.seed, overrides=job_overrides())
        record.save_config(cfg)

        # Here and not above: they take seconds, for which --help and a mistyped key should not wait.
        import lightning as L
        from tqdm.contrib.logging import logging_redirect_tqdm

        from digits import hardware, report, tuning
        from digits.callbacks import History, ProgressBar, TestReport, log_hyperparameters
        from digits.checkpoints import AtomicCheckpoints, Checkpoint, save_state_dict
        from digits.console import quiet_libraries
        from digits.loggers import logger_facts, open_loggers
        from digits.model_facts import ModelFacts
        from digits.runs.model_card import model_card
        from digits.runs.resume import LastCheckpoint, check_position
        from digits.runs.summary import Run

        quiet_libraries()
        hardware.plain_float32()
        L.seed_everything(cfg.seed, workers=True, verbose=False)

        # Where an earlier process was cut off, if this one goes on with its run (one of several looks there too)
        cut_off = Path(cfg.resume or folder, "checkpoints", "last.ckpt")
        position = Checkpoint.open(cut_off).content if cfg.resume and cut_off.exists() else None
        step = position["global_step"] if position else 0
        if cfg.resume:
            log.info("goes on after step %s%s", step, f", in epoch {position['epoch'] + 1}" if position else "")
        if position and 0 <= cfg.trainer.max_epochs < position["epoch"]:
            raise UserError(f"trainer.max_epochs={cfg.trainer.max_epochs}: {position['epoch']} epochs are over already")

        # Device
        device_type = hardware.device_type(cfg.trainer.accelerator)
        precision = hardware.resolve_precision(cfg.trainer.precision, device_type)
        history, test_report = History(folder), TestReport(folder)
        last_checkpoint = LastCheckpoint(folder, cfg.checkpoint_every_seconds, stop)
        bar = [ProgressBar()] if cfg.trainer.enable_progress_bar else []
        callbacks = map(instantiate, filter(None, cfg.callbacks.values()))
        trainer: L.Trainer = instantiate(
            cfg.trainer,
            precision=precision,
            default_root_dir=str(folder),
            callbacks=[*bar, *callbacks, history, test_report, last_checkpoint],
            plugins=[AtomicCheckpoints()],
            logger=open_loggers(cfg.logger, step if cfg.resume else None, record.before),
            _convert_="all",
        )
        if cfg.trainer.profiler:
            if not isinstance(cfg.trainer.profiler, str):
                raise UserError(f"trainer.profiler={cfg.trainer.profiler}: there are simple, advanced and pytorch")
            profiler = trainer.profiler  # type: ignore[attr-defined] # undeclared by Lightning
            profiler.dirpath, profiler.filename = folder, "profile"
        check_processes(trainer)
        device = hardware.describe_device(trainer.strategy.root_device, trainer.world_size)
        log.info("run:    %s\ndevice: %s, precision %s", folder, device, trainer.precision)
        record.update(device=device, precision=trainer.precision, **logger_facts(trainer))

        # Data
        augmentation = instantiate(cfg.augmentation, _convert_="all")
        data = instantiate(cfg.data, augmentation=augmentation, _convert_="all")
        data.prepare_data()
        data.setup()
        if data.dataset != cfg.data.dataset:  # the fall-back: the run's config says so too
            cfg.data.dataset, cfg.data.val_size = data.dataset, len(data.splits.val)
        log.info("%s", report.data_statistics(data))
        record.update(dataset=data.dataset, data=data.name, split_sizes=data.split_sizes)
        check_monitors(cfg, validated=bool(len(data.splits.val) and cfg.trainer.limit_val_batches))

        # Tune: what is found goes into the config, as if it had been given
        if cfg.find_batch_size and not position:
            found = tuning.find_batch_size(make_classifier(cfg, data), data, tuning.probe(trainer, folder))
            cfg.data.batch_size = data.batch_size = found
            log.info("find_batch_size: data.batch_size=%s", found)
        if cfg.find_lr and not position:
            cfg.optimizer.lr = tuning.find_lr(make_classifier(cfg, data), data, tuning.probe(trainer, folder))
            log.info("find_lr: optimizer.lr=%s", cfg.optimizer.lr)
        if (cfg.find_batch_size or cfg.find_lr) and not position:
            L.seed_everything(cfg.seed, workers=True, verbose=False)
        record.save_config(cfg)

        # Network; the checkpoint takes along, as plain types, what rebuilds it and its data
        classifier = make_classifier(cfg, data)
        settings = plain_dict(cfg, resolve=True)
        settings["model"] |= data.shape
        recipe = {name: settings[name] for name in ("model", "optimizer", "scheduler", "augmentation", "seed")}
        kept = {**recipe, "data": data.settings, "precision": trainer.precision}
        classifier.save_hyperparameters(kept, logger=False)
        if position:
            check_position(position, cut_off, kept)
        log.info("%s", report.network_summary(classifier.network, data.splits.train.images[:1].float()))
        record.update(parameters=sum(parameter.numel() for parameter in classifier.network.parameters()))

        # Fit
        with logging_redirect_tqdm(), hardware.memory_advice(trainer, data):
            trainer.fit(classifier, data, ckpt_path=cut_off if position else None, weights_only=True)
        record.update(epochs=len(history.rows), train_seconds=round(sum(row["seconds"] for row in history.rows), 2))
        if not history.rows:
            log.warning("NOT TRAINED: no epoch was run; what follows is about the weights as they began")

        # Test the best checkpoint by validation (or the last one, or the weights as they are, where there is none)
        epoch = len(history.rows)
        if tested := trainer.strategy.broadcast(tested_checkpoint(folder)):  # of several processes, the first one saves
            checkpoint = Checkpoint.open(tested).content
            classifier.load_state_dict(checkpoint["state_dict"])
            epoch = min(epoch, checkpoint["epoch"] + 1)  # counted on already where the last one is from the end
        with hardware.memory_advice(trainer, data):
            [metrics] = trainer.test(classifier, data, verbose=False) or [{}]
        if not metrics:
            log.warning("NOT TESTED: trainer.limit_test_batches leaves nothing to test")
        facts = ModelFacts.of(data.settings)
        save_state_dict(classifier.network, settings["model"], facts, folder / "mnist_cnn_model.pth")

        # Report
        validation = {name: value for name, value in history.row(epoch).items() if name.startswith("val/")}
        figures = report.plain(metrics) | validation
        record.update(tested_epoch=epoch, **figures, **test_report.facts)
        data_recipe = {name: settings["data"][name] for name in ("dataset", "batch_size")}
        run = Run(folder, folder.name, record.facts, tuple(job_overrides()))
        with atomic_write(folder / "MODEL_CARD.md") as part:
            part.write_text(model_card(run, settings, data.class_names), encoding="utf-8")
        log_hyperparameters(trainer, {**recipe, "data": data_recipe}, figures)
        log.info("saved: %s", folder)
        return figures.get("val/acc")


def make_classifier(cfg: DictConfig, data: "DigitsDataModule") -> "Classifier":
    """The network for the data's images and classes, with its optimizer and its schedule: data in, Classifier out."""
    from digits.classifier import Classifier

    network = instantiate(cfg.model, **data.shape, _convert_="all")
    schedule = plain_dict(cfg.scheduler, resolve=True)
    when = {name: schedule.pop(name) for name in ("interval", "frequency", "monitor") if name in schedule}
    return Classifier(
        network,
        data.num_classes,
        optimizer=instantiate(cfg.optimizer, _convert_="all"),
        scheduler=instantiate(schedule, _convert_="all"),
        **when,
        label_smoothing=cfg.label_smoothing,
    )


def check_monitors(cfg: DictConfig, validated: bool) -> None:
    """A schedule or a callback that waits for a figure which never comes would fail an epoch later."""
    from digits.metrics import LOGGED

    watchers = {"scheduler": cfg.scheduler} | {f"callbacks.{key}": part for key, part in cfg.callbacks.items() if part}
    for name, part in watchers.items():
        monitor = part.get("monitor")
        if monitor is None:
            continue
        if monitor not in LOGGED:
            raise UserError(f"{name}.monitor={monitor}: there are {', '.join(LOGGED)}")
        if monitor.startswith("val/") and not validated and name != "callbacks.best_checkpoint":
            raise UserError(f"{name} watches {monitor}, but nothing is validated. Choose another, or set data.val_size")


if __name__ == "__main__":
    main()
