"""Predict the test tiles with every finished fold of a run; their mean goes to runs/NAME/test.npy.

Several runs become one, the ensemble --run, with weights found on their out-of-fold predictions.

python scripts/predict.py resnet34-a
python scripts/predict.py latest --tta none --weights averaged
python scripts/predict.py resnet34-a se50 --run both
python scripts/predict.py resnet34-a --images my_tiles
python scripts/predict.py resnet34-a --export
"""

import _path  # noqa: F401

from kit import cli


def main() -> None:
    parser = cli.parser(__doc__)
    add = parser.add_argument
    add("runs", metavar="RUN", nargs="+", help="a name under runs/, a path, or latest")
    add("--run", metavar="NAME", help="name under runs/ of the ensemble of several runs")
    add("--vote", action="store_true", help="an ensemble by majority of the runs' own masks, not by mean probability")
    add("--images", metavar="FOLDER", help="predict the PNG files of a folder instead; writes FOLDER_masks.csv")
    add("--export", action="store_true", help="write the run as one torch.export program instead: RUN/exported.pt2")
    add("--tta", metavar="NAME", help="test-time augmentation: hflip or none (default: the recipe's)")
    add(
        "--weights",
        choices=("best", "last", "averaged", "snapshots"),
        help="default: what each fold's validation chose",
    )
    cli.add_data(parser)
    args = parser.parse_args()

    from kit import runs

    members = [runs.find_run(name) for name in args.runs]

    from kit.inference import command

    command.predict_runs(members, args)


if __name__ == "__main__":
    cli.run(main)
