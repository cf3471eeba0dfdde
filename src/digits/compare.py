"""Compares runs, or two checkpoints:  python -m digits.compare logs/train   or   ... A/best.ckpt B/best.ckpt

Folders of runs and sweeps become one table: what differs between their configs, and mean and standard deviation over
seeds. Two checkpoints are tested on the same images, and an exact McNemar test says whether they differ by more than
chance.
"""

import argparse
import io
import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, cast

from digits.errors import UserError
from digits.messages import one_line

if TYPE_CHECKING:
    from torch import Tensor

    from digits.checkpoints import Checkpoint
    from digits.data import DigitsDataModule

ALPHA = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m digits.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="folders of runs, or two checkpoints")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write a CSV file with one row per run")
    parser.add_argument("--data", metavar="ROOT", help="folder of the checkpoints' data, if it has moved")
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto", help="for testing the checkpoints")
    parser.add_argument(
        "--trust", action="append", default=[], metavar="PACKAGE", help="whose code a checkpoint may name"
    )
    arguments = parser.parse_args()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without ± must not cost the table
    try:
        print(compare(arguments.paths, arguments.csv, arguments.data, arguments.device, arguments.trust))
    except (UserError, OSError) as error:
        sys.exit(f"error: {one_line(error) or error}")
    except KeyboardInterrupt:
        sys.exit(130)


def compare(
    paths: list[Path],
    csv: Path | None = None,
    data: str | None = None,
    device: str = "auto",
    trust: Collection[str] = (),
) -> str:
    """The table of runs, or the test of two checkpoints, as text.

    Raises:
        UserError: for paths that do not compare.
    """
    checkpoints = [path for path in paths if path.suffix == ".ckpt"]
    if not checkpoints:
        from digits.runs.summary import Summary, read_runs

        summary = Summary(read_runs(*paths))
        if csv:
            summary.write_csv(csv)
        return summary.text
    problem = None
    if not len(checkpoints) == len(paths) == 2:
        given = f"{len(checkpoints)} of {len(paths)} paths" if len(checkpoints) < len(paths) else len(paths)
        problem = f"checkpoints (*.ckpt) given: {given}. Give folders of runs, or exactly two checkpoints"
    elif csv:
        problem = "--csv: for a table of runs, not for two checkpoints. Leave it out"
    if problem:
        raise UserError(problem)
    a, b = checkpoints
    return compare_checkpoints(a, b, data, device, trust)


def compare_checkpoints(
    a: Path, b: Path, data: str | None = None, device: str = "auto", trust: Collection[str] = ()
) -> str:
    """Tests both checkpoints on the test images, which neither has seen, and says whether they differ.

    Source of the test: McNemar 1947, in its exact (binomial) form, by mlxtend.

    Raises:
        UserError: for something that is no checkpoint, data that cannot be had, or different test images.
    """
    import torch

    tested = [_test(path, data, device, trust) for path in (a, b)]
    (data_a, preds_a), (data_b, preds_b) = tested
    images_a, images_b = data_a.splits.test, data_b.splits.test
    if not (torch.equal(images_a.images, images_b.images) and torch.equal(images_a.target, images_b.target)):
        raise UserError(
            f"{a} and {b} have different test images{_differences(data_a, data_b)}. Give two that share them"
        )

    from mlxtend.evaluate import mcnemar, mcnemar_table

    table = mcnemar_table(images_a.target.numpy(), preds_a.numpy(), preds_b.numpy())
    _, p_value = mcnemar(table, exact=True)
    (both_right, only_a), (only_b, both_wrong) = table.tolist()
    total = len(images_a)
    return "\n".join(
        [
            f"test set of {data_a.dataset}: {total:,} images",
            "",
            f"A: {(both_right + only_a) / total:.2%}  {a}",
            f"B: {(both_right + only_b) / total:.2%}  {b}",
            "",
            f"both right    {both_right:>7,}",
            f"only A right  {only_a:>7,}",
            f"only B right  {only_b:>7,}",
            f"both wrong    {both_wrong:>7,}",
            "",
            f"McNemar's exact test: p = {p_value:.3g}",
            _verdict(only_a, only_b, p_value),
            "This is about these two checkpoints on this test set. To compare two recipes, train each with several",
            "seeds (python train.py -m seed=1,2,3,4,5 ...), and give the folders.",
        ]
    )


def _test(path: Path, root: str | None, device: str, trust: Collection[str]) -> tuple["DigitsDataModule", "Tensor"]:
    """A checkpoint's data, and its predictions (N,) for the test images."""
    from digits.checkpoints import Checkpoint

    checkpoint = Checkpoint.open(path, trust)
    data = checkpoint.data(root=root)
    return data, logits_of(checkpoint, data, device).argmax(dim=1)


def logits_of(checkpoint: "Checkpoint", data: "DigitsDataModule", device: str = "auto") -> "Tensor":
    """A checkpoint's logits (N, num_classes) for the test images of some data, in their order.

    Raises:
        UserError: if the checkpoint's network cannot be built.
    """
    import lightning as L
    import torch

    from digits import build, hardware
    from digits.classifier import Classifier

    build.quiet_libraries()
    hardware.plain_float32()
    network = checkpoint.network()
    precision = hardware.evaluation_precision("auto", checkpoint.settings["precision"])
    trainer = L.Trainer(
        accelerator=device,
        devices=1,
        precision=precision,  # type: ignore[arg-type] # of Lightning's names, but out of a file
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    batches = trainer.predict(Classifier(network, data.num_classes), datamodule=data)
    return torch.cat(cast("list[Tensor]", batches))


def _differences(a: "DigitsDataModule", b: "DigitsDataModule") -> str:
    """The settings of the data that differ, which may be the reason."""
    pairs = {name: (value, b.settings[name]) for name, value in a.settings.items() if name not in ("mean", "std")}
    differ = [f"data.{name}={one} and {other}" for name, (one, other) in pairs.items() if one != other]
    return f" ({'; '.join(differ)})" if differ else ""


def _verdict(only_a: int, only_b: int, p_value: float) -> str:
    if p_value < ALPHA:
        better = "A" if only_a > only_b else "B"
        return f"{better} is better, significantly at {ALPHA}: {only_a} to {only_b} is rarely chance."
    return f"Not significant at {ALPHA}: {only_a} to {only_b} may well be chance."


if __name__ == "__main__":
    main()
