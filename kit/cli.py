"""What every script shares: exit codes, one-line errors, and the flags that mean the same everywhere."""

import argparse
import errno
import os
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from kit.errors import InputError, RefusedError, UnreachableError
from kit.runs import Run, read_json

OK, INPUT_WRONG, REFUSED, UNREACHABLE, INTERRUPTED = 0, 2, 3, 4, 130
DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def run(main: Callable[[], None]) -> None:
    """Run a script's main and exit: 0 done, else with one line: 2 the user's input is wrong, 3 Kaggle said no,
    4 Kaggle cannot be reached, 130 on Ctrl-C.
    """
    # what libraries tell their developers is not for a competitor's screen
    warnings.simplefilter("ignore", DeprecationWarning)
    warnings.simplefilter("ignore", FutureWarning)
    try:
        main()
        sys.stdout.flush()
    except InputError as error:
        fail(str(error), INPUT_WRONG)
    except RefusedError as error:
        fail(str(error), REFUSED)
    except UnreachableError as error:
        fail(str(error), UNREACHABLE)
    except KeyboardInterrupt:
        fail("interrupted", INTERRUPTED)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, named so that torch need not be imported here
            raise
        fail("the GPU's memory is full: lower --per-device, train with --bs auto, or free the GPU", INPUT_WRONG)
    except BrokenPipeError:  # the reader of our output left (| head): not an error of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.errno in DISK_FULL:
            fail(f"no room to write {error.filename or 'a file'} ({error.strerror}): free disk space; "
                 "what was there before is kept, and a training goes on with --resume", INPUT_WRONG)  # fmt: skip
        if isinstance(error, PermissionError | FileExistsError | NotADirectoryError | IsADirectoryError):
            fail(f"{error.filename} cannot be opened or written ({error.strerror}): "
                 "mend that path or choose another one", INPUT_WRONG)  # fmt: skip
        raise


def fail(line: str, code: int) -> NoReturn:
    """Exit with one line on the standard error."""
    print(f"error: {' '.join(line.split())}", file=sys.stderr)
    sys.exit(code)


def parser(doc: str | None) -> argparse.ArgumentParser:
    """An argument parser whose help is the script's own docstring."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def add_data(parser: argparse.ArgumentParser, nargs: str | None = None) -> None:
    parser.add_argument(
        "--data",
        nargs=nargs,
        metavar="DIR|demo",
        help="competition files as Kaggle delivers them (default: $KIT_DATA, else data/); demo = synthetic data",
    )


def data_dir(given: str | None) -> Path:
    """The data folder that the user means; "demo" is written to data/demo on first use."""
    if given != "demo":
        return Path(given or os.environ.get("KIT_DATA") or "data")
    from kit.data import demo

    path = Path("data") / "demo"
    if not (path / "demo_answers.csv").exists():
        print(f"writing demo data to {path}")
        demo.write(path, n_train=800, n_test=200, seed=0)
    return path


def data_of_run(run: Run, given: str | None) -> Path:
    """The data folder given on the command line, else the one that the run was trained on."""
    if given:
        return data_dir(given)
    record = read_json(run / "environment.json")
    if not isinstance(record, dict) or not {"data", "fingerprint", "folds"} <= record.keys():
        raise InputError(f"{run / 'environment.json'} is not what train.py wrote: restore it")
    if not Path(record["data"]).is_dir():
        raise InputError(f"{record['data']}, which {run.path} was trained on, is not there: say where with --data")
    return Path(record["data"])


def batch_size(text: str) -> int | str:
    """The value of --bs: a number, or "auto"."""
    return text if text == "auto" else int(text)


def seconds(flag: str, text: str) -> float:
    """ "90s", "60m", "1.5h" or plain minutes as seconds. Raises InputError naming the flag."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip().lower())
    if not match or float(match[1]) == 0:
        raise InputError(f"{flag} {text!r} is no duration: write for instance 90s, 60m or 1.5h")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600, "": 60}[match[2]]
