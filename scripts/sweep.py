"""Train recipes x seeds x folds on the machines of a Ray cluster; each is a run of its own, all are in one table.

python scripts/sweep.py --name a --recipe cpu,baseline --seed 0,1 --fold all --data DIR -- --time-budget 60m
python scripts/sweep.py --name a --recipe cpu --fold 0 --address 10.0.0.1:6379     # a cluster that `ray start` made

What stands after -- goes to scripts/train.py. The data folder, and files that a recipe names, must be at the same path
on every machine. A machine that is lost costs what it trained since the last epoch; after anything else the same
command again goes on. Results: runs/NAME-RECIPE-sSEED-fFOLD and runs/NAME.sweep.csv.
"""

import _path  # noqa: F401

from kit import cli


def main() -> None:
    parser = cli.parser(__doc__)
    add = parser.add_argument
    add("--name", required=True, help="what the runs and the table are called")
    add("--recipe", metavar="A[,B]", default="baseline", help="names of train.py --list or .toml files")
    add("--seed", metavar="S[,T]", default="0", help="of folds, weights, order and augmentation (default: 0)")
    add("--fold", metavar="K", default="0", help="0, or 0,2, or all (default: 0)")
    add("--per-device", type=int, default=1, metavar="N", help="trainings at a time on a GPU, or a machine without")
    add("--address", help="of an existing Ray cluster, or auto (default: a cluster of this machine alone)")
    add("flags", metavar="FLAG", nargs="*", help="after --: more flags of scripts/train.py, for each of the trainings")
    cli.add_data(parser)
    args = parser.parse_args()

    from kit.training import sweep

    tasks = sweep.tasks_of(args)
    table = sweep.run(tasks, args)
    print(sweep.in_words(table))
    print(f"written: {sweep.table_of(args.name)}")
    sweep.check(table)


if __name__ == "__main__":
    cli.run(main)
