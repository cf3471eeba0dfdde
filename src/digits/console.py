"""The console: tables as plain text, and silence for libraries' news and advice that are wrong or noise here."""

import logging
import warnings

from rich.console import Console, RenderableType


def as_text(renderable: RenderableType, width: int = 100) -> str:
    """A table as the terminal and the log file both take it: without colours and without blanks at a line's end."""
    # A class's name is the user's: no markup in it.
    console = Console(width=width, no_color=True, force_terminal=False, markup=False, emoji=False, highlight=False)
    with console.capture() as capture:
        console.print(renderable)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


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
    # A run that goes on (digits.runs.resume) writes into its own folder, and its batches do begin where they ended.
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")
