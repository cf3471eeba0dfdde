"""Evaluates a checkpoint:  python eval.py ckpt_path=logs/train/runs/<run>/checkpoints/best.ckpt"""

import logging
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from digits.cli import check_overrides, entry_point
from digits.errors import UserError
from digits.record import RunRecord

log = logging.getLogger(__name__)


@entry_point("eval")
def main(cfg: DictConfig) -> None:
    """Writes the same report for a checkpoint as training does for its best one."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    with RunRecord(folder) as record:
        OmegaConf.save(cfg, folder / "config.yaml", resolve=True)
        check_overrides(cfg)
        record.update(ckpt_path=cfg.ckpt_path)
        if not cfg.ckpt_path:
            raise UserError("ckpt_path is not set: give ckpt_path=logs/train/runs/<run>/checkpoints/best.ckpt")

        import lightning as L

        from digits import hardware, report
        from digits.callbacks import ProgressBar, TestReport
        from digits.checkpoints import load_checkpoint, restore_network
        from digits.classifier import Classifier
        from digits.console import quiet_libraries
        from digits.data import DigitsDataModule

        quiet_libraries()
        hardware.plain_float32()

        # Checkpoint
        checkpoint = load_checkpoint(cfg.ckpt_path)
        trained = checkpoint["hyper_parameters"]
        network = restore_network(checkpoint, cfg.ckpt_path)

        # Device
        hardware.device_type(cfg.trainer.accelerator)
        test_report = TestReport(folder)
        trainer: L.Trainer = instantiate(
            cfg.trainer,
            precision=hardware.evaluation_precision(cfg.trainer.precision, trained["precision"]),
            default_root_dir=str(folder),
            callbacks=[*([ProgressBar()] if cfg.trainer.enable_progress_bar else []), test_report],
            logger=False,
            _convert_="all",
        )
        device = hardware.describe_device(hardware.only_device(trainer))
        log.info("run:    %s\ndevice: %s, precision %s", folder, device, trainer.precision)
        log.info("of:     %s, trained on %s, seed %s", cfg.ckpt_path, trained["data"]["dataset"], trained.get("seed"))
        record.update(device=device, precision=trainer.precision, seed=trained.get("seed"))

        # Data: the checkpoint's own, from where training found it, unless another is asked for
        settings = dict(trained["data"])
        if not Path(settings["root"]).is_dir():  # a checkpoint from another machine
            settings["root"] = "data"
        settings |= {name: value for name, value in cfg.data.items() if value is not None}
        data = DigitsDataModule(**settings)
        data.prepare_data()
        data.setup()
        if data.dataset == "mnist5k" and trained["data"]["dataset"] == "mnist":
            raise UserError(
                "data.dataset=mnist5k: no test set for this checkpoint, which was trained on mnist:"
                " all of mnist5k are training images of mnist"
            )
        record.update(dataset=data.dataset, split_sizes=data.split_sizes)

        # Test
        [metrics] = trainer.test(Classifier(network, data.num_classes), data, verbose=False) or [{}]
        record.update(**report.plain(metrics), **test_report.facts)
        log.info("saved: %s", folder)


if __name__ == "__main__":
    main()
