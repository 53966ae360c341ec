"""Label test tiles with trained runs, for a recipe to train on: runs/RUN/pseudo/fold_K of the first RUN.

The labels of fold K come only from models that never saw that fold's validation tiles: each RUN's own fold K. This is
proved from the runs' folds.csv, and refused where it does not hold. The runs need their test predictions (predict.py).

python scripts/pseudo_label.py a
python scripts/train.py --recipe resnet34-1st --set pseudo_run=a

python scripts/pseudo_label.py a b --most 1600 --soft            # two runs label together
python scripts/pseudo_label.py first second --halves             # each tile by the run that did not train on its label
"""

import _path  # noqa: F401

from kit import cli


def main() -> None:
    parser = cli.parser(__doc__)
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="a name under runs/, a path, or latest; the first one keeps the labels")
    add("--fold", default="all", metavar="K", help="0, or 0,2, or all the folds that every RUN has, "
        "or none = labels by every fold, for a training on every tile (default: all)")  # fmt: skip
    add("--confidence", type=float, default=0.9, metavar="C",
        help="label tiles of at least this confidence: the share of pixels below 0.2 or above 0.8, "
        "times the agreement of the models (default: 0.9)")  # fmt: skip
    add("--most", type=int, metavar="N", help="label at most N tiles a fold, each class of coverage at most in "
        "its share of the training tiles (default: as many as the fold trains on)")  # fmt: skip
    add("--soft", action="store_true", help="probabilities for labels, for losses that read them (bce, dice, focal)")
    add("--flips", action="store_true", help="mirrored views count as models that must agree; needs a pass of the nets")
    add("--halves", action="store_true", help="label a tile only by runs that did not train on its label "
        "(pseudo_half=first, pseudo_half=second)")  # fmt: skip
    cli.add_data(parser)
    args = parser.parse_args()

    from kit import runs
    from kit.data import tiles
    from kit.inference import pseudo

    members = [runs.find_run(name) for name in args.runs]
    options = pseudo.Options(args.confidence, args.most, args.soft, args.flips, args.halves)
    folds = pseudo.folds_to_label(members, args.fold)
    loaded = tiles.load(cli.data_of_run(members[0], args.data))
    with members[0].lock():
        print(pseudo.label(members, loaded, folds, options))
    print(f"written: {members[0] / 'pseudo'}")
    print(f"next: python scripts/train.py --recipe RECIPE --set pseudo_run={members[0].given}")


if __name__ == "__main__":
    cli.run(main)
