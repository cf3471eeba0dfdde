"""Trains, tests and reports:  python train.py optimizer=sgd trainer.max_epochs=25"""

import logging
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from digits.command import command

if TYPE_CHECKING:
    from digits.runs.run import Run

log = logging.getLogger(__name__)


@command("train")
def main(cfg: DictConfig, run: "Run") -> float | None:
    """Fills a run's folder and returns val/acc of the tested checkpoint, for a sweep to maximise."""
    # Imported here: torch takes seconds, for which --help and a mistyped key should not wait.
    from digits.rehearsal import rehearse

    rehearse(cfg)
    from lightning import seed_everything
    from tqdm.contrib.logging import logging_redirect_tqdm

    from digits import build, loggers, report, tuning
    from digits.metrics import OBJECTIVE
    from digits.runs import checkpointing

    seed_everything(cfg.seed, workers=True, verbose=False)
    resumed = checkpointing.to_resume(run)

    # Data, and a trainer with the callbacks that write into the run's folder
    data = build.data(cfg, run)
    trainer = build.trainer(cfg, run, data, resumed)

    # Tune: what is found goes into the config, as if it had been given
    if (cfg.find_batch_size or cfg.find_lr) and not resumed:
        tuning.tune(cfg, run, data, trainer, lambda: build.classifier(cfg, data))

    # Network, optimizer and schedule; the checkpoints keep, as plain types, what rebuilds them
    classifier = build.classifier(cfg, data)
    classifier.save_hyperparameters(build.settings(cfg, data, trainer), logger=False)
    checkpointing.check_resumed(resumed, classifier.hparams, trainer)
    log.info("%s", report.network_summary(classifier.network, data.splits.train.images[:1].float()))
    run.update(parameters=classifier.num_parameters)
    run.save_config(cfg)

    # Fit, then test the best checkpoint: where there is none, the weights of the last epoch
    with logging_redirect_tqdm():
        trainer.fit(classifier, data, ckpt_path=resumed.path if resumed else None, weights_only=True)
    checkpointing.load_best(classifier, trainer, run, build.fit_gate(cfg))
    trainer.test(classifier, data, verbose=False)
    loggers.log_hyperparameters(trainer, run)
    log.info("saved: %s", run.folder)
    return run.facts.get(OBJECTIVE)


if __name__ == "__main__":
    main()
