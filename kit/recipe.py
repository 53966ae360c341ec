"""A recipe: everything that a result depends on. Defaults < parent TOML < recipe TOML < command-line flags.

The values of registries (losses, encoders, augmentations ...) are checked by the rooms that own them.
"""

import json
import math
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from kit.errors import InputError
from kit.schema import build, near

RECIPES = Path(__file__).parent / "recipes"
AUTO = -1  # for `micro_bs`: found before training


@dataclass(frozen=True)
class Data:
    """What the net sees of a tile, and how the training tiles are split."""

    size: int = 128  # pixels, side of the net's input
    resize: int = 0  # pixels, side that a tile is resized to before it is padded to `size`; 0 = as it is
    fit: str = "pad-reflect"  # how a tile becomes `size`: pad-reflect, pad-edge, pad-random, resize
    channels: str = "grey3"  # grey3, or some of grey, depth (0.5 if missing), y, grey*y, joined by +
    folds: int = 5
    folds_by: str = "coverage"  # coverage, random, depth, mosaic
    augment: str = "default"  # a name of training/augment.py
    sampling: str = "uniform"  # uniform, coverage: each class of coverage equally often
    drop_constant: bool = False  # leave constant tiles out of training; validation keeps them


@dataclass(frozen=True)
class Net:
    """The network: a timm encoder, its stem, a decoder; or a classic net, which has no encoder."""

    encoder: str = "resnet34"  # a timm name; "" for a classic net
    stem: str = "own"  # own, stride1, no-pool, 3x3
    decoder: str = "dynamic"  # dynamic, salt, or a name of nets/classic.py
    pretrained: bool = True
    weights: str = ""  # file with encoder weights in timm's layout, instead of a download


@dataclass(frozen=True)
class Salt:
    """Switches of the "salt" decoder; the weights are those of the extra heads' losses against the mask's own."""

    width: int = 64  # channels of each decoder block, at most
    narrow: bool = False  # each block is half as wide as the one before it
    residual: bool = False  # two residual units in each block for two convolutions
    upsample: str = "bilinear"  # bilinear, nearest, transposed
    activation: str = "relu"  # relu, elu, silu, mish
    centre: str = "none"  # none, conv, fpa, psp, dilated
    scse: str = "none"  # none, decoder, encoder, both
    bam: bool = False  # bottleneck attention behind each encoder stage and each decoder block
    gate: bool = False  # attention gates on the skips
    hypercolumn: bool = False
    dropout: float = 0.0  # of whole channels, before the last convolution
    deep: float = 0.0  # weight of a loss at each decoder scale; 0 = none
    deep_nonempty: bool = False  # that loss is of tiles with salt only
    empty: float = 0.0  # weight of the head that says whether a tile is empty; 0 = no such head
    gating: bool = False  # a tile that the head calls empty is predicted empty
    nonempty: float = 0.0  # weight of a mask head that learns from tiles with salt only; 0 = no such head


@dataclass(frozen=True)
class Stage:
    """One stretch of training with one loss and one schedule."""

    epochs: float = 10.0  # passes over the training tiles; a part of one is allowed
    loss: str = "bce"  # a name of nets/losses.py or a mix such as "0.1*bce + 0.9*lovasz_elu"
    lr: float = 1e-3  # the highest of the schedule, for the decoder
    encoder_lr: float = 0.1  # factor for the encoder's first half (its second: the root), only with pretrained weights
    bs: int = 16  # tiles in a step of the optimiser
    micro_bs: int = 0  # tiles of them that go through the net at once, gradients added up; 0 = all, -1 = what fits
    optimiser: str = "adamw"  # adam, adamw, sgd, rmsprop
    weight_decay: float = 0.01
    normalise: bool = False  # divide each layer's gradient by its norm
    schedule: str = "one-cycle"  # one-cycle, constant, cosine, triangular2, poly, noam, plateau
    lr_min: float = 0.0  # cosine, poly, triangular2, plateau: the lowest rate
    cycles: int = 1  # cosine, poly: how many times the rate falls from `lr` to `lr_min`
    steps: int = 0  # triangular2: of half a cycle; noam: of the warm-up
    freeze: bool = False  # train only the decoder and the batch-norms; ignored without pretrained weights
    average: bool = False  # average the weights at the end of each epoch (SWA)
    ema: float = 0.0  # decay of an exponential moving average of the weights at each step; 0 = none
    snapshots: int = 0  # keep so many: the ends of the last cycles (cosine, poly), else the last best epochs
    monitor: str = "score"  # plateau and stop: score, valid_loss, train_loss
    mode: str = "auto"  # of the monitor: max, min, auto
    factor: float = 0.5  # plateau: the learning rate is multiplied by this ...
    patience: int = 5  # ... after so many epochs without a better value
    stop: int = 0  # the stage ends after so many epochs without a better value; 0 = never
    pseudo: str = "none"  # pseudo-labels of `pseudo_run`: none, only (skipped where no run is named), mix
    pseudo_weight: float = 1.0  # mix: so many pseudo-labelled tiles are drawn for each training tile
    consistency: str = "none"  # on tiles without labels: none, mean-teacher (the `ema` teaches), co-training
    consistency_weight: float = 1.0  # of its loss against the stage's own, once it has risen
    consistency_ramp: float = 0.25  # share of the stage's steps in which that weight rises

    @property
    def at_once(self) -> int:
        """How many tiles of a batch go through the net at once, at most; all where that is not found yet."""
        return min(self.micro_bs, self.bs) if self.micro_bs > 0 else self.bs


@dataclass(frozen=True)
class Recipe:
    """One system, complete. Write it to TOML with `dumps`, read it with `load`."""

    name: str = "baseline"
    parent: str = ""
    source: str = ""
    published: str = ""  # the source's score, public / private leaderboard
    seed: int = 0
    precision: str = "auto"  # auto, float32, bfloat16, float16
    tta: str = "hflip"  # hflip, none
    snapshot_weights: str = "mean"  # how snapshots' predictions are averaged: mean, exponential (the newest most)
    time_budget: str = ""  # "60m": how the epochs below were chosen; for the record
    limit: int = 0  # train and validate on so many tiles only; 0 = all
    pseudo_run: str = ""  # the run whose pseudo-labels the stages train on, written by scripts/pseudo_label.py
    pseudo_half: str = "both"  # train on those of one half of the test tiles: both, first, second
    iterate: int = 0  # so many further rounds: label the test tiles with this run, train the recipe on that
    data: Data = field(default_factory=Data)
    net: Net = field(default_factory=Net)
    salt: Salt = field(default_factory=Salt)
    stages: tuple[Stage, ...] = (Stage(),)

    @property
    def epochs(self) -> float:
        return sum(stage.epochs for stage in self.stages if self.trains(stage))

    def trains(self, stage: Stage) -> bool:
        """Whether there are tiles for the stage: one on pseudo-labels only is skipped where no run is named."""
        return stage.pseudo != "only" or bool(self.pseudo_run)

    def from_scratch(self) -> "Recipe":
        """The same recipe without pretrained weights."""
        return replace(self, net=replace(self.net, pretrained=False, weights=""))

    def scaled(self, epochs: float) -> "Recipe":
        """The same recipe trained for `epochs` in all, each stage keeping its share and its schedule's shape."""
        if epochs <= 0:
            raise InputError(f"epochs must be above 0, not {epochs:g}")
        factor = epochs / self.epochs
        steps = (max(1, round(stage.steps * factor)) if stage.steps > 0 else stage.steps for stage in self.stages)
        pairs = zip(self.stages, steps, strict=True)
        return replace(self, stages=tuple(replace(one, epochs=one.epochs * factor, steps=n) for one, n in pairs))

    def with_lr(self, lr: float) -> "Recipe":
        """The first stage's highest learning rate becomes `lr`; all other rates keep their ratio to it."""
        factor = lr / self.stages[0].lr
        scaled = (replace(stage, lr=stage.lr * factor, lr_min=stage.lr_min * factor) for stage in self.stages)
        return replace(self, stages=tuple(scaled))

    def with_bs(self, bs: int) -> "Recipe":
        return replace(self, stages=tuple(replace(stage, bs=bs) for stage in self.stages))

    def with_auto_bs(self) -> "Recipe":
        """The same batches, each to go through the net in parts as large as fit into the memory."""
        return replace(self, stages=tuple(replace(stage, micro_bs=AUTO) for stage in self.stages))


def names() -> list[str]:
    """The packaged recipes, sorted."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def load(name: str = "baseline", settings: Iterable[str] = ()) -> Recipe:
    """A packaged recipe, or a TOML file, with its parents and `KEY=VALUE` settings applied.

    Raises InputError for unknown recipes, keys and values of the wrong type, naming the near ones.
    """
    values = _read(name, seen=())
    from_dict(values)  # the files by themselves: a wrong type is named before settings are put into it
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise InputError(f"--set {setting!r} has no '=': write it as KEY=VALUE, for instance net.stem=no-pool")
        _assign(values, key.strip(), _value(text.strip()))
    recipe = from_dict(values)
    return check(recipe)


def check(recipe: Recipe) -> Recipe:
    """The recipe itself. Raises InputError for numbers that no training can have."""
    if not recipe.stages:
        raise InputError(f"recipe {recipe.name} has no [[stages]]: give it at least one")
    if recipe.data.folds < 2:
        raise InputError(f"recipe key data.folds must be 2 or more, not {recipe.data.folds}")
    if recipe.limit < 0:
        raise InputError(f"recipe key limit must be 0 (all tiles) or more, not {recipe.limit}")
    if not 0 <= recipe.seed < 2**32:
        raise InputError(f"recipe key seed must be 0 to {2**32 - 1}, not {recipe.seed}")
    for number, stage in enumerate(recipe.stages):
        for key in ("epochs", "lr", "bs"):
            if not 0 < getattr(stage, key) < math.inf:
                raise InputError(f"recipe key stages.{number}.{key} must be above 0, not {getattr(stage, key)}")
        if stage.micro_bs < AUTO:
            raise InputError(
                f"recipe key stages.{number}.micro_bs must be above 0, 0 (the whole batch at once) or "
                f"{AUTO} (as many tiles as fit), not {stage.micro_bs}"
            )
    _check_pseudo(recipe)
    return recipe


def _check_pseudo(recipe: Recipe) -> None:
    """Whether what the recipe says of pseudo-labels fits together."""
    if recipe.pseudo_half not in ("both", "first", "second"):
        raise InputError(f"recipe key pseudo_half {recipe.pseudo_half!r} is unknown; use both, first, second")
    if recipe.iterate < 0:
        raise InputError(f"recipe key iterate must be 0 (no further round) or more, not {recipe.iterate}")
    if recipe.iterate and recipe.pseudo_half != "both":
        raise InputError("recipe key iterate needs pseudo_half=both: a half is labelled by hand with pseudo_label.py")
    if recipe.pseudo_half != "both" and not recipe.pseudo_run:
        raise InputError("recipe key pseudo_half means nothing without labels: name their run by --set pseudo_run=RUN")
    if (recipe.pseudo_run or recipe.iterate) and all(stage.pseudo == "none" for stage in recipe.stages):
        raise InputError(
            f"no stage of recipe {recipe.name} uses pseudo-labels: add --set stages.{len(recipe.stages) - 1}.pseudo=mix"
        )
    if not any(map(recipe.trains, recipe.stages)):
        raise InputError(f"recipe {recipe.name} trains on pseudo-labels only: name their run with --set pseudo_run=RUN")


def from_dict(values: dict[str, Any]) -> Recipe:
    return build(Recipe, values)


def dumps(recipe: Recipe) -> str:
    """The whole recipe as TOML: `load` of it gives an equal recipe, without a parent."""
    lines, tables = [], []
    for item in fields(recipe):
        value = getattr(recipe, item.name)
        if is_dataclass(value):
            tables += ["", f"[{item.name}]", *_pairs(value)]
        elif item.name == "stages":
            for stage in value:
                tables += ["", "[[stages]]", *_pairs(stage)]
        elif item.name != "parent":  # a resolved recipe stands alone
            lines.append(f"{item.name} = {_toml(value)}")
    return "\n".join(lines + tables) + "\n"


def _pairs(value: Any) -> list[str]:
    return [f"{item.name} = {_toml(getattr(value, item.name))}" for item in fields(value)]


def _toml(value: Any) -> str:
    """JSON's text of a string, number or truth value is TOML's too, but for surrogate pairs and one character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _read(name: str, seen: tuple[str, ...]) -> dict[str, Any]:
    """The values of a recipe file merged over those of its parents."""
    path = _path(name, seen)
    if not path.is_file():
        raise InputError(f"no recipe {name!r}{near(name, names())}; see train.py --list, or give a .toml file")
    if str(path) in seen:
        raise InputError(f"recipe {path} is its own ancestor ({' > '.join((*seen, str(path)))}): change one parent")
    try:
        own = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"recipe {path} is not valid TOML: {error}") from None
    for key, value in {"name": path.stem, "source": "", "published": ""}.items():  # no child claims its parent's
        own.setdefault(key, value)
    parent = own.get("parent", "")
    if not isinstance(parent, str):
        raise InputError(f"recipe {path}: parent must be the name of a recipe, not {parent!r}")
    return _merge(_read(parent, (*seen, str(path))), own) if parent else own


def _path(name: str, seen: tuple[str, ...]) -> Path:
    """The file of a recipe: packaged, or a TOML file, which a child names as seen from its own folder."""
    if not name.endswith(".toml"):
        return RECIPES / f"{name}.toml"
    return Path(seen[-1]).parent / name if seen else Path(name)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Tables merge key by key; everything else, lists of stages included, is replaced."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _merge(base[key], value) if both else value
    return merged


def _value(text: str) -> Any:
    """A setting's text as TOML would read it; what TOML cannot read is a plain string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _assign(values: dict[str, Any], key: str, value: Any) -> None:
    """Set one dotted key, for instance net.stem or stages.0.lr."""
    if key not in _keys(values):
        raise InputError(f"unknown recipe key {key!r}{near(key, _keys(values))}")
    *path, last = key.split(".")
    target: Any = values
    for part in path:
        target = target[int(part)] if isinstance(target, list) else target.setdefault(part, {})
    target[last] = value


def _keys(values: dict[str, Any]) -> list[str]:
    """Every dotted key that a recipe with these stages has."""
    tables = {"data": Data, "net": Net, "salt": Salt}
    keys = [item.name for item in fields(Recipe) if item.name not in (*tables, "stages", "parent")]
    keys += [f"{name}.{item.name}" for name, kind in tables.items() for item in fields(kind)]
    return keys + [f"stages.{i}.{item.name}" for i in range(len(values.get("stages", []))) for item in fields(Stage)]
