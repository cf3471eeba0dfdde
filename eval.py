"""Evaluates a checkpoint:  python eval.py ckpt_path=logs/train/runs/<run>/checkpoints/best.ckpt"""

import logging
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from digits.command import command

if TYPE_CHECKING:
    from digits.runs.run import Run

log = logging.getLogger(__name__)


@command("eval")
def main(cfg: DictConfig, run: "Run") -> None:
    """Writes the report of training for a checkpoint; for several, for their ensemble."""
    # Imported here: torch takes seconds, for which --help and a mistyped key should not wait.
    from digits import build, report
    from digits.calibration import calibrate_as_trained
    from digits.checkpoints import open_all
    from digits.metrics import plain
    from digits.networks import Ensemble
    from digits.targets import packages

    # Checkpoints, and the data of training, from where training found it, unless another is asked for
    checkpoints = open_all(cfg.ckpt_path, cfg.log_dir, packages(cfg.trust))
    networks = [build.tested_network(cfg, checkpoint) for checkpoint in checkpoints]
    for one in checkpoints:
        log.info("of:     %s, trained on %s, seed %s", one.path, one.settings["data"]["dataset"], one.settings["seed"])
    trainer = build.evaluator(cfg, run, checkpoints)
    data = checkpoints[0].data(**cfg.data)
    paths = [str(checkpoint.path) for checkpoint in checkpoints]
    run.update(ckpt_path=paths if len(paths) > 1 else paths[0], seed=checkpoints[0].settings["seed"])
    run.update(dataset=data.dataset, data=data.name, split_sizes=data.split_sizes)
    run.save_config(cfg)

    # Several: each alone first
    members = []
    for checkpoint, network in zip(checkpoints, networks, strict=True) if len(networks) > 1 else ():
        alone = build.evaluator(cfg, run, checkpoints, reports=False)
        [figures] = alone.test(checkpoints[0].classifier(network), data, verbose=False) or [{}]
        members.append({"ckpt_path": str(checkpoint.path), **plain(figures)})

    # Test; of several, the mean of their probabilities
    network = Ensemble(networks) if members else networks[0]
    classifier = checkpoints[0].classifier(network)
    calibrate_as_trained(classifier, checkpoints, data, trainer.strategy.root_device)
    trainer.test(classifier, data, verbose=False)
    if members:
        run.update(members=members)
    if members and run.figures:
        log.info("%s", report.ensemble(members, run.figures, classifier.metrics))
    log.info("saved: %s", run.folder)


if __name__ == "__main__":
    main()
