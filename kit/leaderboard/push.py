"""What scripts/push_kernel.py does: build the kernel and its datasets, publish, push, wait, fetch, validate, submit."""

import argparse
import base64
import json
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from kit import cli, runs
from kit.data.competition import TGS
from kit.errors import InputError, RefusedError
from kit.leaderboard import command, dataset, kernel, package, sending, submission
from kit.leaderboard.client import Client, log_in
from kit.leaderboard.kernel import Kernel
from kit.leaderboard.ledger import Ledger
from kit.leaderboard.submission import Sample
from kit.recipe import Recipe
from kit.runs import Run
from kit.training.command import folds_of, named_recipe

BUILD = Path("build") / "kernel"  # what would be sent, for anybody to look at; ignored by git
KIT, ENCODER, RUN = "Salt kit", "Salt kit encoder", "Salt kit run"  # titles of the datasets
NOBODY = "INSERT_OWNER_HERE"  # in kernel-metadata.json until --init


@dataclass
class Parts:
    """What a kernel is made of: the arguments of its script, and its datasets' files by title and name."""

    arguments: list[str]
    wheel: str
    embedded: str = ""
    datasets: dict[str, dict[str, Path]] = field(default_factory=dict)

    def refs(self, owner: str) -> tuple[str, ...]:
        return tuple(f"{owner}/{dataset.slug_of(title)}" for title in self.datasets)


def push_kernel(args: argparse.Namespace, template: Path) -> None:
    """Do what the flags say, and print what was done. template: scripts/kernel.py.

    Raises InputError, RefusedError, UnreachableError.
    """
    sample, parts = _sample(args), _parts(args)
    text = kernel.script(template, parts.arguments, parts.wheel, parts.embedded)
    kaggle = None if args.dry_run else log_in()
    owner = _owner(args.init, kaggle)
    pushed = Kernel(owner, text, parts.refs(owner), not args.no_gpu, args.internet)
    if not args.init:
        _write(pushed, parts)
    _show_datasets(pushed, parts)
    if kaggle is None:
        return
    with runs.exclusive(BUILD / ".lock"):  # of two processes the second sees what the first did
        for title, files in parts.datasets.items():
            print(dataset.publish(kaggle, owner, title, files), flush=True)
        if args.init:
            runs.write_json(kernel.METADATA, pushed.metadata(os.path.relpath(template)))
            print(f"written: {kernel.METADATA}\nnext: kaggle kernels push")
            return
        version = kernel.push(kaggle, pushed)
    print(f"kernel {pushed.ref}: version {version}, {pushed.url}", flush=True)
    if args.wait or args.submit:
        _finish(kaggle, pushed, version, sample, args)
    else:
        print("next: the same command with --wait, at any time")


def _parts(args: argparse.Namespace) -> Parts:
    """Build what the kernel needs, every flag checked. Raises InputError."""
    cli.seconds("--time-limit", args.time_limit)
    if args.init and (args.run or args.recipe or args.arch or args.fold or args.set or args.embed):
        raise InputError("--init is for `kaggle kernels push`, which trains the baseline as scripts/kernel.py says: "
                         "leave out RUN, --recipe, --arch, --fold, --set and --embed")  # fmt: skip
    name, content = package.wheel()
    parts = Parts(["--time-limit", args.time_limit], name)
    if args.run:
        _add_run(parts, args)
    else:
        _add_recipe(parts, args)
    if args.embed:
        parts.embedded = base64.b64encode(content).decode()
    else:
        runs.write_bytes(BUILD / name, content)
        parts.datasets = {KIT: {name: BUILD / name}} | parts.datasets
    return parts


def _add_run(parts: Parts, args: argparse.Namespace) -> None:
    """A kernel that only predicts, with the weights of a run."""
    from kit.data import placement
    from kit.scoring.decide import decision_of

    for flag in ("recipe", "arch", "fold", "set", "weights"):
        if getattr(args, flag):
            raise InputError(f"a trained run is only predicted with: leave out --{flag}, or leave out {args.run}")
    run = runs.find_run(args.run)
    places = placement.read(cli.data_of_run(run, args.data)) if decision_of(run).mosaic_rules else None
    path = package.pack_run(run, places, BUILD)
    parts.datasets[RUN] = {path.name: path}
    parts.arguments += ["--trained", path.name]


def _add_recipe(parts: Parts, args: argparse.Namespace) -> None:
    """A kernel that trains, with encoder weights where a file of them is given."""
    if args.recipe and args.recipe.endswith(".toml"):
        raise InputError(f"{args.recipe} is not on Kaggle: put it into kit/recipes and name it without .toml")
    recipe = named_recipe(args)
    if recipe.iterate or recipe.pseudo_run:
        raise InputError("a kernel trains without pseudo-labels: leave out iterate and pseudo_run")
    folds_of(args.fold or "0", recipe.data.folds)
    for flag in ("recipe", "arch", "fold"):
        if getattr(args, flag):
            parts.arguments += [f"--{flag}", getattr(args, flag)]
    for setting in args.set:
        parts.arguments += ["--set", setting]
    if args.weights:
        path = Path(args.weights)
        if not path.is_file():
            raise InputError(f"--weights {path}: there is no such file")
        recipe = replace(recipe, net=replace(recipe.net, weights=str(path.resolve())))
        _try(recipe)
        name = package.encoder_name(recipe.net.encoder, path)
        parts.datasets[ENCODER] = {name: path}
        parts.arguments += ["--weights", name]
    else:
        _try(recipe.from_scratch())
        if recipe.net.pretrained and recipe.net.encoder and not args.internet:
            print(f"note: {recipe.net.encoder} will begin with random weights, for the kernel has no internet: "
                  "publish weights with --weights FILE, or allow --internet", flush=True)  # fmt: skip


def _try(recipe: Recipe) -> None:
    """A net that cannot be built is refused here, not after a quarter of an hour on Kaggle."""
    from kit.training.learner import make_net

    make_net(recipe)


def _owner(given: str | None, kaggle: Client | None) -> str:
    """Whose kernel it is: --init's word, else kernel-metadata.json's, else that of the credentials; never a guess."""
    known = given or _owner_in_file() or (kaggle.username if kaggle else NOBODY)
    if not known:
        raise InputError("Kaggle does not say whose key this is: say it once with push_kernel.py --init OWNER")
    if known != NOBODY and not re.fullmatch(r"[A-Za-z0-9][\w-]*", known):
        raise InputError(f"{known!r} is no user of Kaggle: give the last part of https://www.kaggle.com/OWNER")
    if kaggle and kaggle.username and known.lower() != kaggle.username.lower():
        where = "--init" if given else kernel.METADATA
        raise InputError(f"{where} names {known}, but the credentials are those of {kaggle.username}: "
                         f"mend one of them, or give --init {kaggle.username}")  # fmt: skip
    return kaggle.username if kaggle and kaggle.username else known  # in Kaggle's own spelling


def _owner_in_file() -> str:
    """The owner that --init has written, or nothing."""
    if not Path(kernel.METADATA).exists():
        return ""
    try:
        owner = str(json.loads(Path(kernel.METADATA).read_text())["id"]).partition("/")[0]
    except (ValueError, KeyError, TypeError, OSError):
        raise InputError(f"{kernel.METADATA} is damaged: restore it, or write it with --init OWNER") from None
    return "" if owner == NOBODY else owner


def _write(pushed: Kernel, parts: Parts) -> None:
    """Write the kernel to BUILD, and say what it is."""
    pushed.write(BUILD)
    size = len(pushed.text.encode())
    where = "in the script" if parts.embedded else "in a dataset"
    print(f"written: {BUILD / 'kernel.py'}: {size:,} bytes of at most {kernel.LIMIT:,}, the kit {where}, "
          f"{'GPU' if pushed.gpu else 'CPU'}, internet {'on' if pushed.internet else 'off'}", flush=True)  # fmt: skip
    print(f"arguments: {' '.join(parts.arguments)}", flush=True)


def _show_datasets(pushed: Kernel, parts: Parts) -> None:
    for ref, files in zip(pushed.datasets, parts.datasets.values(), strict=True):
        for name, path in files.items():
            print(f"dataset {ref}: {name}, {path.stat().st_size:,} bytes", flush=True)


def _sample(args: argparse.Namespace) -> Sample:
    """What the submission will be held against: the test tiles of the data, or without data the competition alone."""
    data = cli.data_dir(args.data)
    if not args.data and not data.is_dir():
        return TGS
    from kit.data import tiles

    return list(tiles.load(data).test_ids)


def _finish(kaggle: Client, pushed: Kernel, version: int, sample: Sample, args: argparse.Namespace) -> None:
    """Wait for a version, fetch what it wrote, an ordinary run where it trained, validate and submit it."""
    print("waiting; after Ctrl-C the same command goes on", flush=True)
    kernel.follow(kaggle, pushed, version)
    folder = Path("runs") / f"{pushed.slug}-v{version}"
    path = kernel.fetch(kaggle, pushed, version, folder)
    try:
        submission.validate(path, sample)
    except submission.SubmissionError as error:
        raise RefusedError(f"kernel {pushed.ref}: what version {version} wrote is no submission: {error}") from None
    print(f"valid: {path}{' (without data, its ids are not checked)' if sample is TGS else ''}", flush=True)
    if not args.submit:
        print(f"next: python scripts/submit.py --kernel {pushed.ref} --version {version}")
        return
    run = runs.find_run(args.run) if args.run else Run(folder)
    parcel = sending.of_kernel(pushed.ref, version, args.message, run.name, command.oof(run))
    ledger = Ledger()
    command.outcome(kaggle, ledger, [command.send(kaggle, ledger, parcel)], args.wait)
