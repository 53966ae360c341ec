"""Predict the test tiles with every finished fold of a run; their mean goes to runs/NAME/test.npy.

python scripts/predict.py resnet34-a
python scripts/predict.py latest --tta none
"""

import _path  # noqa: F401

from kit import cli


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("run", metavar="RUN", help="a name under runs/, a path, or latest")
    parser.add_argument("--tta", metavar="NAME", help="test-time augmentation: hflip or none (default: the recipe's)")
    cli.add_data(parser)
    args = parser.parse_args()

    from kit import recipe, runs
    from kit.data import tiles

    run = runs.find_run(args.run)

    from kit.inference.predict import predict

    with run.lock():
        path = predict(
            run, recipe.load(str(run / "recipe.toml")), tiles.load(cli.data_of_run(run, args.data)), args.tta
        )
    print(f"written: {path}")
    following = "tune_threshold.py" if (run / "oof.npy").exists() else "submit.py --dry-run"
    print(f"next: python scripts/{following} {run.name}")


if __name__ == "__main__":
    cli.run(main)
