"""Decide how a run's probabilities become masks: every way is compared on out-of-fold predictions, nested.

The best whose gain over threshold 0.5 is outside noise goes into decision.json: threshold, components, holes, the gate
of the empty head, the mask of greatest expected score. Mosaic rules are added where scripts/mosaic.py placed the tiles.

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
    from kit.data import placement, tiles
    from kit.scoring.decide import tune_run

    run = runs.find_run(args.run)

    from kit.report.figures import save, score_against_threshold

    data = cli.data_of_run(run, args.data)
    outcome = tune_run(run, tiles.load(data), placement.read(data))
    save(score_against_threshold(outcome.tuning), run / "decision.png")
    print(outcome.in_words())
    print(f"written: {run / 'decision.json'}, {run / 'decision.csv'}, {run / 'decision.png'}")
    print(f"next: python scripts/submit.py {run.given} --dry-run")


if __name__ == "__main__":
    cli.run(main)
