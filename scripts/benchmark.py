"""Measure the kit on this machine: beside its peers, by recipe, by encoder, by the number of tiles.

python scripts/benchmark.py                                     # kit and peers in one run, a table with the ratios
python scripts/benchmark.py training
python scripts/benchmark.py recipes cpu baseline                # what a training costs, for train.py --list
python scripts/benchmark.py encoders --minutes 10 --data data   # which encoder? a table and a picture
python scripts/benchmark.py growth                              # seconds and memory of each script against the tiles
python scripts/benchmark.py folds --recipe cpu --data data      # several folds at a time on one GPU: is it faster?
python scripts/benchmark.py --peer --minutes 15 --data data     # a recipe against a plain U-Net, by score
"""

import importlib
import platform
import tempfile
from pathlib import Path

import _path  # noqa: F401

from kit import cli

GROUPS = ("data", "losses", "training", "prediction")
ALONE = ("recipes", "encoders", "growth", "folds")


def main() -> None:
    parser = cli.parser(__doc__)
    add = parser.add_argument
    add("what", nargs="?", choices=(*GROUPS, *ALONE), help=f"default: {', '.join(GROUPS)}")
    add("names", nargs="*", metavar="NAME", help="of recipes to time (default: all)")
    add("--peer", action="store_true", help="train a recipe and segmentation_models.pytorch's U-Net, compare scores")
    add("--recipe", help="the one to compare with the peer, or to train folds of (default: cpu), or encoders with")
    add("--minutes", type=float, help="of each training (default: 15 beside the peer, 10 an encoder, 1 a fold)")
    add("--fold", type=int, default=0, help="the fold to validate on (default: 0)")
    add("--seed", type=int, default=0, help="of trainings and folds (default: 0)")
    add("--limit", type=int, metavar="N", help="encoders: use only N random training tiles (a quick try)")
    add("--out", metavar="FOLDER", help="of runs and tables; what is there is not trained again")
    cli.add_data(parser)
    args = parser.parse_args()
    if args.names and args.what != "recipes":
        parser.error(f"only `recipes` takes names, not {args.names[0]}")

    from tests.benchmarks import side

    print(f"{side.hardware()}; Python {platform.python_version()}, {side.versions()}")
    if args.peer or args.what in ALONE:
        importlib.import_module(f"tests.benchmarks.{'peer' if args.peer else args.what}").main(args)
    else:
        with tempfile.TemporaryDirectory() as folder:
            side.table(Path(folder), [args.what] if args.what else GROUPS)


if __name__ == "__main__":
    cli.run(main)
