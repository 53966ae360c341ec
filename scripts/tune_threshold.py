"""Find the threshold and the smallest component on out-of-fold predictions, nested, and keep them only if they gain.

python scripts/tune_threshold.py resnet34-a
"""

import _path  # noqa: F401

from kit import cli


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("run", metavar="RUN", help="a name under runs/, a path, or latest")
    cli.add_data(parser)
    args = parser.parse_args()

    from kit import runs
    from kit.data import tiles
    from kit.scoring.decide import tune_run

    run = runs.find_run(args.run)

    from kit.report.figures import save, score_against_threshold

    tuning = tune_run(run, tiles.load(cli.data_of_run(run, args.data)))
    save(score_against_threshold(tuning), run / "decision.png")
    print(tuning.decision.in_words())
    print(f"written: {run / 'decision.json'}, {run / 'decision.png'}")
    print(f"next: python scripts/submit.py {run.name} --dry-run")


if __name__ == "__main__":
    cli.run(main)
