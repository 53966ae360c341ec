"""Download the competition's files, check them, and prepare what is read later: the cache of tiles, folds, mosaics.

python scripts/prepare.py --download      # into data/; run it again after a cut, it goes on
python scripts/prepare.py                 # the files are there already
python scripts/prepare.py --check         # credentials, client, disk, GPU, access, quota: a line each, with the mend
"""

import _path  # noqa: F401

from kit import cli


def main() -> None:
    parser = cli.parser(__doc__)
    add = parser.add_argument
    add("--download", action="store_true", help="fetch the files from Kaggle first; accept the rules there before")
    add("--check", action="store_true", help="only look whether everything is there that the kit needs")
    cli.add_data(parser)
    args = parser.parse_args()
    data = cli.data_dir(args.data)

    if args.check:
        from kit.leaderboard import checks

        checks.run(data)
        return

    from kit.leaderboard import prepare

    if args.download:
        prepare.download(data)
    loaded = prepare.build(data)

    from kit.report import mosaics

    mosaics.put_together(data, loaded)
    print("next: python scripts/train.py --arch resnet34")


if __name__ == "__main__":
    cli.run(main)
