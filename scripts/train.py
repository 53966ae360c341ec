"""Train a recipe on one fold, some, or all, and write its out-of-fold probabilities and scores to runs/NAME.

python scripts/train.py --arch resnet34
python scripts/train.py --arch seresnext50_32x4d --fold all --time-budget 6h --run se50
python scripts/train.py --run se50 --resume
python scripts/train.py --pretext --arch resnet34 --no-pretrained --run p
accelerate launch --multi_gpu scripts/train.py --arch resnet34 --run big      # one fold on all GPUs, or with torchrun
"""

import _path  # noqa: F401

from kit import cli
from kit.training import launch


def main() -> None:
    parser = cli.parser(__doc__)
    cli.add_data(parser)
    add = parser.add_argument
    add("--arch", metavar="NAME", help="timm encoder, such as resnet34 or seresnext50_32x4d (default: the recipe's)")
    add("--recipe", metavar="NAME", help="a name of --list or a .toml file (default: baseline)")
    add("--list", action="store_true", help="print the recipes with their sources and costs, and stop")
    add("--fold", metavar="K", help="0, or 0,2, or all, or none = train on every tile, no validation (default: 0)")
    add("--per-device", type=int, default=1, metavar="N", help="folds at a time on a GPU, or on the CPU (default: 1)")
    add("--epochs", type=float, metavar="N", help="passes over the training tiles in all; stages keep their shares")
    add("--lr", type=float, help="highest learning rate of the first stage; later stages keep their ratio to it")
    add("--bs", type=cli.batch_size, metavar="N", help="batch size; auto: the recipe's, in parts where memory is short")
    add("--limit", type=int, metavar="N", help="use only N random training tiles (a quick try)")
    add("--seed", type=int, help="seed of folds, weights, order and augmentation (default: 0)")
    add("--no-pretrained", action="store_true", help="start from random weights")
    add("--weights", metavar="FILE", help="encoder weights in timm's layout instead of a download")
    add("--time-budget", metavar="TIME", help="60m, 1.5h: time the first steps, then train as long as fits")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="any key of the recipe, e.g. net.stem=no-pool")
    add("--run", metavar="NAME", help="name under runs/ (default: recipe, encoder and time)")
    add("--lr-find", action="store_true", help="draw the loss against the learning rate, suggest one, train nothing")
    add("--pretext", action="store_true", help="pretrain the encoder on tiles without labels, for a later --weights")
    add("--resume", action="store_true", help="go on with --run (default: the latest) where it was cut")
    add("--tensorboard", action="store_true", help="also log to runs/NAME/fold_K/tensorboard")
    args = parser.parse_args()
    launch.check(args)
    if args.list:
        from kit import measured

        print(measured.listing())
    elif args.lr_find:
        from kit.report import lr_find

        lr_find.find(args)
    elif args.pretext:
        from kit.report import pretext

        pretext.train(args)
    else:
        from kit.inference import rounds

        launch.together(rounds.train, args)


if __name__ == "__main__":
    cli.run(main)
