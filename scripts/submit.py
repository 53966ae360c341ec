"""Submit a run, a file or a kernel's output to Kaggle, once and surely; all are kept in submissions/ledger.jsonl.

python scripts/submit.py resnet34-a --dry-run                      # build and validate only, nothing is sent
python scripts/submit.py resnet34-a -m "first ensemble" --wait     # wait for the score; Ctrl-C costs nothing
python scripts/submit.py submissions/mine.csv -m "by hand"
python scripts/submit.py --kernel me/salt-kit --version 3 --wait
python scripts/submit.py a b c --queue                             # for later; cron sends: submit.py --work-queue
python scripts/submit.py --status                                  # table and picture, Kaggle's news included

What was submitted before, in whatever order its rows stood, is refused and its score named. Exit codes: 3 Kaggle said
no, 4 Kaggle cannot be reached; after 4 or a crash run the same command again, it looks first whether it arrived.
"""

import _path  # noqa: F401

from kit import cli


def main() -> None:
    parser = cli.parser(__doc__)
    add = parser.add_argument
    add("what", metavar="RUN|FILE.csv", nargs="*", help="runs (names under runs/, paths, or latest) or CSV files")
    add("-m", "--message", metavar="TEXT", default="", help="description on Kaggle (default: the file's name)")
    add("--dry-run", action="store_true", help="stop before the network")
    add("--wait", action="store_true", help="wait for the score")
    add("--queue", action="store_true", help="put on the queue instead of sending")
    add("--work-queue", action="store_true", help="send from the queue, best out-of-fold score first, while slots last")
    add("--status", action="store_true", help="all submissions with their scores; submissions/status.png")
    add("--kernel", metavar="OWNER/SLUG", help="submit submission.csv of this kernel's --version")
    add("--version", metavar="N", type=int, help="which version of the kernel")
    cli.add_data(parser)
    args = parser.parse_args()

    from kit.leaderboard import command

    command.check(args)
    if not args.status:
        command.submit(args)
        return

    from kit.report import standing

    standing.show()


if __name__ == "__main__":
    cli.run(main)
