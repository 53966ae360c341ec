"""One static page of a run: scores, tiles worst first, training, net, mosaics, submissions, data; opened from the disk.

Several runs: the first in full, the others' trainings beside it. No run: the data alone.

python scripts/report.py resnet34-a [resnet34-b ...]
python scripts/report.py --data DIR
"""

import _path  # noqa: F401

from kit import cli


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("runs", metavar="RUN", nargs="*", help="names under runs/, paths, or latest")
    cli.add_data(parser, nargs="?")
    args = parser.parse_args()

    from kit import runs

    found = [runs.find_run(name) for name in args.runs]
    data = cli.data_of_run(found[0], args.data) if found else cli.data_dir(args.data)

    from kit.report import sections

    print(f"written: {sections.write(found, data)}")


if __name__ == "__main__":
    cli.run(main)
