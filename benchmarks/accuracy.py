"""Test accuracy over several seeds, mean and standard deviation, of train.py with any overrides.

    python -m benchmarks.accuracy --seeds 5 optimizer=adam

The seeds share one validation split; each run is tested with its best checkpoint by validation.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="train with the seeds 1 to N (default: 5)")
    parser.add_argument("overrides", nargs="*", help="of train.py, such as optimizer=sgd")
    arguments = parser.parse_args()

    records = []
    with tempfile.TemporaryDirectory() as logs:
        for seed in range(1, arguments.seeds + 1):
            words = ["train.py", *arguments.overrides, f"seed={seed}", f"log_dir={logs}/{seed}"]
            subprocess.run([sys.executable, *words], cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)
            [path] = Path(logs, str(seed)).glob("train/runs/*/metrics.json")
            records.append(record := json.loads(path.read_text()))
            print(
                f"seed {seed}: test/acc {record['test/acc']:.4f}, val/acc {record['val/acc']:.4f}"
                f" (epoch {record['tested_epoch']}), {record['train_seconds']:.0f} s of training",
                flush=True,
            )

    first = records[0]
    accuracy = [100 * record["test/acc"] for record in records]
    spread = f" ± {statistics.stdev(accuracy):.2f}" if len(accuracy) > 1 else ""
    seconds = statistics.median(record["train_seconds"] for record in records)
    print(f"\npython train.py {' '.join(arguments.overrides)}".rstrip())
    print(
        f"test accuracy on {first['dataset']} ({first['split_sizes']['test']:,} images):"
        f" {statistics.mean(accuracy):.2f}{spread} % (mean ± sd, {len(records)} seeds),"
        f" {seconds:.0f} s of training (median), {first['device']}, {first['precision']}"
    )


if __name__ == "__main__":
    main()
