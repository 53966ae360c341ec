"""Run a recipe or a trained run as a kernel on Kaggle, without internet, and bring home what it wrote.

The kit goes into a private dataset as a wheel, weights into others; what is there already is not sent again. After a
cut, or Ctrl-C while waiting, the same command goes on: no dataset or kernel gets a second version of the same content.

python scripts/push_kernel.py --init OWNER              # once: publishes the kit; then `kaggle kernels push` works too
python scripts/push_kernel.py --recipe resnet34-1st --fold all --wait      # trains; comes home as an ordinary run
python scripts/push_kernel.py resnet34-a --wait --submit                   # only predicts, with runs/resnet34-a
python scripts/push_kernel.py --recipe cpu --no-gpu --embed --dry-run      # shows what would be sent
"""

from pathlib import Path

import _path  # noqa: F401

from kit import cli


def main() -> None:
    parser = cli.parser(__doc__)
    add = parser.add_argument
    add("run", metavar="RUN", nargs="?", help="a trained run to predict with; without it the kernel trains a recipe")
    add("--recipe", metavar="NAME", help="as for train.py (default: baseline)")
    add("--arch", metavar="NAME", help="timm encoder (default: the recipe's)")
    add("--fold", metavar="K", help="0, or 0,2, or all, or none = train on every tile (default: 0)")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="any key of the recipe, e.g. net.stem=no-pool")
    add("--weights", metavar="FILE", help="encoder weights in timm's layout, published for kernels without internet")
    add("--time-limit", metavar="TIME", default="8h", help="90s, 30m, 8h: of the whole kernel (default: 8h)")
    add("--no-gpu", action="store_true", help="run on a CPU")
    add("--internet", action="store_true", help="let the kernel download encoder weights; not for code competitions")
    add("--embed", action="store_true", help="put the kit into the script itself; no dataset of it is needed")
    add("--init", metavar="OWNER", help="write kernel-metadata.json for this user, and publish the datasets it names")
    add("--dry-run", action="store_true", help="write everything to build/kernel and send nothing")
    add("--wait", action="store_true", help="wait for the kernel, bring its output home, validate the submission in it")
    add("--submit", action="store_true", help="then send it as a code submission (waits, too)")
    add("-m", "--message", default="", metavar="TEXT", help="of the submission")
    cli.add_data(parser)
    args = parser.parse_args()

    from kit.leaderboard import push

    push.push_kernel(args, Path(__file__).with_name("kernel.py"))


if __name__ == "__main__":
    cli.run(main)
