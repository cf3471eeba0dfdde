"""Keeps the console for what matters: silences libraries' news and advice that are wrong or noise here."""

import logging
import warnings


def quiet_libraries() -> None:
    """Call after lightning was imported: it sets its own levels then."""
    # Devices, loggers and limits: train.py says in two lines what there is to say.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    # A batch is one gather in memory: worker processes only cost.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # Everything is logged by epoch, so log_every_n_steps does not matter.
    warnings.filterwarnings("ignore", message=".*is smaller than the logging interval.*")
    # Lightning on this torch; nothing that a user could change.
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).* is deprecated.*")
    # data.val_size=0 means it.
    warnings.filterwarnings("ignore", message=".*Total length of `list` across ranks is zero.*")
    warnings.filterwarnings("ignore", message=r".*ModelCheckpoint\(monitor=.*could not find the monitored key.*")
    # torchmetrics has gathered from all processes by then: what is logged is the same in each.
    warnings.filterwarnings("ignore", message=".*It is recommended to use `self.log.*sync_dist=True.*")
