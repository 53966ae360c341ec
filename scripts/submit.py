"""Build a run's submission and validate it, or validate a file.

python scripts/submit.py resnet34-a --dry-run
python scripts/submit.py submissions/mine.csv --dry-run --data data
"""

import shlex
from pathlib import Path

import _path  # noqa: F401

from kit import cli


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument(
        "what", metavar="RUN|FILE.csv", help="a run (a name under runs/, a path, or latest) or a CSV file"
    )
    parser.add_argument("--dry-run", action="store_true", required=True, help="stop before the network; needed so far")
    cli.add_data(parser)
    args = parser.parse_args()

    from kit import runs
    from kit.data import placement, tiles
    from kit.data.competition import TGS
    from kit.leaderboard import submission
    from kit.scoring.decide import decision_of, masks_of_test

    if args.what.lower().endswith(".csv"):
        path, data = Path(args.what), cli.data_dir(args.data)
        loaded = tiles.load(data)
    else:
        run = runs.find_run(args.what)
        data = cli.data_of_run(run, args.data)
        loaded = tiles.load(data)
        print(decision_of(run).in_words())
        path = submission.write_of_run(run.name, *masks_of_test(run, loaded, placement.read(data)), loaded.test_ids)
    submission.validate(path, list(loaded.test_ids))
    print(f"valid: {path} ({len(loaded.test_ids):,} tiles)")
    if (data / "demo_answers.csv").exists():
        print(f"score against {data / 'demo_answers.csv'}: {submission.score(path, data / 'demo_answers.csv'):.4f}")
    else:
        print(f"send it: kaggle competitions submit {TGS.slug} -f {shlex.quote(str(path))} -m {shlex.quote(path.stem)}")


if __name__ == "__main__":
    cli.run(main)
