"""Evaluates a checkpoint:  python eval.py ckpt_path=logs/train/runs/<run>/checkpoints/best.ckpt"""

import logging
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig

from digits.command import check_overrides, check_targets, command
from digits.errors import UserError
from digits.runs.processes import check_processes
from digits.runs.record import RunRecord

log = logging.getLogger(__name__)


@command("eval")
def main(cfg: DictConfig) -> None:
    """Writes the same report for a checkpoint as training does for its best one; for several, for their ensemble."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    with RunRecord(folder) as record:
        record.save_config(cfg)
        check_overrides(cfg)
        check_targets(cfg)
        paths = list(cfg.ckpt_path) if isinstance(cfg.ckpt_path, ListConfig) else [cfg.ckpt_path]
        if not (paths and all(paths)):
            raise UserError("ckpt_path is not set: give ckpt_path=logs/train/runs/<run>/checkpoints/best.ckpt")
        if not all(isinstance(path, str) for path in paths):
            raise UserError(
                f"ckpt_path={cfg.ckpt_path}: give a checkpoint's path, or several: ckpt_path=[a.ckpt,b.ckpt]"
            )
        record.update(ckpt_path=paths if len(paths) > 1 else paths[0])

        import lightning as L

        from digits import hardware, report
        from digits.callbacks import ProgressBar, TestReport
        from digits.checkpoints import Checkpoint
        from digits.classifier import Classifier
        from digits.console import quiet_libraries
        from digits.data.restore import check_one_test_set
        from digits.networks import Ensemble

        quiet_libraries()
        hardware.plain_float32()

        # Checkpoints
        if len(set(paths)) < len(paths):
            raise UserError("ckpt_path has the same checkpoint twice: it would only count double")
        checkpoints = {path: Checkpoint.open(path) for path in paths}
        networks = [checkpoint.network() for checkpoint in checkpoints.values()]
        check_one_test_set({path: checkpoint.settings["data"] for path, checkpoint in checkpoints.items()})
        trained = checkpoints[paths[0]].settings

        # Device
        hardware.device_type(cfg.trainer.accelerator)
        test_report = TestReport(folder)
        bar = [ProgressBar()] if cfg.trainer.enable_progress_bar else []
        precisions = {checkpoint.settings["precision"] for checkpoint in checkpoints.values()}
        weights = precisions.pop() if len(precisions) == 1 else "32-true"  # each member keeps its weights' own type
        precision = hardware.evaluation_precision(cfg.trainer.precision, weights)
        settings = {"precision": precision, "default_root_dir": str(folder), "logger": False, "_convert_": "all"}
        trainer: L.Trainer = instantiate(cfg.trainer, callbacks=[*bar, test_report], **settings)
        check_processes(trainer)
        device = hardware.describe_device(trainer.strategy.root_device, trainer.world_size)
        log.info("run:    %s\ndevice: %s, precision %s", folder, device, trainer.precision)
        for path, checkpoint in checkpoints.items():
            of = checkpoint.settings
            log.info("of:     %s, trained on %s, seed %s", path, of["data"]["dataset"], of.get("seed"))
        record.update(device=device, precision=trainer.precision, seed=trained.get("seed"))

        # Data: the checkpoint's own, from where training found it, unless another is asked for
        data = checkpoints[paths[0]].data(**cfg.data)
        record.update(dataset=data.dataset, split_sizes=data.split_sizes)

        # Test; of several, each alone and then the mean of their probabilities
        if len(networks) > 1:
            members = []
            for path, network in zip(paths, networks, strict=True):
                alone = instantiate(cfg.trainer, callbacks=bar, **settings)
                with hardware.memory_advice(alone, data):
                    [metrics] = alone.test(Classifier(network, data.num_classes), data, verbose=False) or [{}]
                members.append({"ckpt_path": path, **report.plain(metrics)})
            record.update(members=members)
        network = networks[0] if len(networks) == 1 else Ensemble(networks)
        with hardware.memory_advice(trainer, data):
            [metrics] = trainer.test(Classifier(network, data.num_classes), data, verbose=False) or [{}]
        figures = report.plain(metrics)
        if not figures:
            log.warning("NOT TESTED: trainer.limit_test_batches leaves nothing to test")
        elif len(networks) > 1:
            log.info("%s", report.ensemble(members, figures))
        record.update(**figures, **test_report.facts)
        log.info("saved: %s", folder)


if __name__ == "__main__":
    main()
