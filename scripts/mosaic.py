"""Put the tiles together into the sections they were cut from: mosaic.csv, folds that keep mosaics whole, pictures.

Printed are the tiers of confidence, held against chance, and how exposed each kind of folds is to its neighbours.

python scripts/mosaic.py --data data
python scripts/mosaic.py resnet34-a     # with the masks that a run predicts
"""

import _path  # noqa: F401

from kit import cli


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("run", metavar="RUN", nargs="?", help="draw its masks too: a name under runs/, a path, latest")
    cli.add_data(parser)
    args = parser.parse_args()

    from kit import runs
    from kit.data import tiles

    run = runs.find_run(args.run) if args.run else None
    data = cli.data_of_run(run, args.data) if run else cli.data_dir(args.data)
    loaded = tiles.load(data)

    from kit.report import mosaics

    mosaics.put_together(data, loaded, run)


if __name__ == "__main__":
    cli.run(main)
