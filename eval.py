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
    OmegaConf.save(cfg, folder / "config.yaml", resolve=True)
    with RunRecord(folder, ckpt_path=cfg.ckpt_path) as record:
        check_overrides(cfg)

        import lightning as L

        from digits import hardware, report
        from digits.callbacks import ProgressBar, TestReport
        from digits.checkpoints import load_checkpoint, restore_network
        from digits.classifier import Classifier
        from digits.console import quiet_libraries

        quiet_libraries()

        # Checkpoint
        checkpoint = load_checkpoint(cfg.ckpt_path)
        trained = checkpoint["hyper_parameters"]
        network = restore_network(checkpoint, cfg.ckpt_path)

        # Device
        hardware.device_type(cfg.trainer.accelerator)
        precision = hardware.evaluation_precision(cfg.trainer.precision, trained["precision"])
        test_report = TestReport(folder)
        trainer: L.Trainer = instantiate(
            cfg.trainer,
            precision=precision,
            default_root_dir=str(folder),
            callbacks=[test_report, ProgressBar()],
            logger=False,
            _convert_="all",
        )
        device = hardware.describe_device(trainer.strategy.root_device)
        log.info("run:    %s\ndevice: %s\nof:     %s, seed %s", folder, device, cfg.ckpt_path, trained.get("seed"))

        # Data: the checkpoint's own, unless another is asked for
        if cfg.data.dataset == "mnist5k" and trained["data"]["dataset"] == "mnist":
            raise UserError(
                "data.dataset=mnist5k: no test set for this checkpoint, which was trained on mnist:"
                " all of mnist5k are training images of mnist"
            )
        chosen = {name: value for name, value in cfg.data.items() if value is not None}
        data = instantiate({**trained["data"], **chosen})
        data.prepare_data()
        data.setup()
        record.update(dataset=data.dataset, split_sizes=data.split_sizes, seed=trained.get("seed"), device=device)

        # Test
        [metrics] = trainer.test(Classifier(network, data.num_classes), data, verbose=False)
        record.update(**report.plain(metrics), **test_report.facts)
        log.info("saved: %s", folder)


if __name__ == "__main__":
    main()
