"""The command `adjoint`: train a network, resume it to the same bits, leave a report; start, measure and plan worlds of ranks.

Invariant: what can fail fails before training starts; errors are one message and a status, never a traceback.
May import: everything. Read next: train/fit.py.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from . import nn, optim
from .compiler.compile import compile
from .data import Dataset, load_digits, load_fashion_mnist
from .distributed import run_threads, world
from .distributed.lanes import draw, trace_of
from .distributed.launch import HANG_SECONDS
from .distributed.launch import launch as launched
from .distributed.picture import drawing
from .distributed.plan import LINKS, Work, links_of, volume
from .distributed.plan import duration as duration_of
from .distributed.plan import report as planned
from .distributed.probe import described
from .distributed.probe import probe as probed
from .distributed.profile import read
from .distributed.threads import MOST as MOST_THREADS
from .errors import AdjointError, ConfigError, explain
from .insight.report import write_report
from .insight.training import training_report
from .train.evaluate import Predictor, error_rate
from .train.fit import Fit, fit
from .train.progress import Progress, duration
from .train.run_folder import RunFolder
from .transforms.derivatives import grad
from .tree import flatten

try:
    import click
except ModuleNotFoundError:
    raise SystemExit("adjoint: the command needs click, which is not installed.\n"
                     "  Install it: pip install 'adjoint[cli]', or 'adjoint[cli,mpi]' for many ranks.") from None

INTERRUPTED = 130


@dataclass(frozen=True)
class Recipe:
    """A network and how it is trained; config.json of a run holds exactly this."""

    task: str
    hidden: tuple[int, ...]
    epochs: int
    batch: int
    learning_rate: float
    noise: float
    label_smoothing: float
    weight_decay: float
    held_out: int
    seed: int = 0


DIGITS = Recipe("digits", (256, 128), epochs=100, batch=64, learning_rate=2e-3, noise=0.2, label_smoothing=0.05, weight_decay=0.01,
                held_out=256)
FASHION = Recipe("fashion-mnist", (512, 512), epochs=10, batch=128, learning_rate=1.5e-3, noise=0.1, label_smoothing=0.05,
                 weight_decay=0.01, held_out=5000)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="adjoint", prog_name="adjoint")
def adjoint() -> None:
    """Exact derivatives of NumPy code, compiled; this command trains networks with them."""


@adjoint.group()
def train() -> None:
    """Train a network; Ctrl-C saves, --resume goes on to the same bits."""


def _finite(context: click.Context, option: click.Parameter, value: float | None) -> float | None:
    """Refuse NaN and infinity, which click's ranges let through."""
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a finite number.", context, option)
    return value


def _options(recipe: Recipe) -> Callable:
    """The options that both tasks have, their defaults from the recipe."""
    def decorate(command: Callable) -> Callable:
        for option in reversed([
            click.option("--epochs", type=click.IntRange(1), default=None, help=f"Passes over the data.  [default: {recipe.epochs}]"),
            click.option("--batch", type=click.IntRange(1), default=None, help=f"Examples per step.  [default: {recipe.batch}]"),
            click.option("--learning-rate", type=click.FloatRange(0, min_open=True), callback=_finite, default=None,
                         help=f"Per step, at the start of the cosine.  [default: {recipe.learning_rate}]"),
            click.option("--seed", type=click.IntRange(0), default=None, help="Of weights, batches and noise.  [default: 0]"),
            click.option("--runs", type=click.Path(file_okay=False, path_type=Path), default=Path("runs"), show_default=True,
                         help="Folder of the run folders."),
            click.option("--resume", is_flag=True, help="Go on with the newest run, with the options it was started with."),
        ]):
            command = option(command)
        return command
    return decorate


@train.command()
@_options(DIGITS)
def digits(**options: Any) -> None:
    """Handwritten digits that ship inside the package (UCI optdigits): 64-256-128-10."""
    run(DIGITS, load_digits(), options)


@train.command("fashion-mnist")
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True,
              help="Folder with the four original .gz files.")
@_options(FASHION)
def fashion_mnist(data: Path, **options: Any) -> None:
    """Fashion-MNIST from its four original files: 784-512-512-10."""
    run(FASHION, load_fashion_mnist(data), options)


def run(recipe: Recipe, dataset: Dataset, options: dict[str, Any]) -> None:
    """Train, test, write the report, print where it is."""
    runs, resume = options.pop("runs"), options.pop("resume")
    given = {name: value for name, value in options.items() if value is not None}
    if resume:
        if given:
            raise ConfigError(explain(f"--resume takes the options that the run was started with; it was given {', '.join(given)}.",
                                      where="", remedy="Leave the other options out, or start a new run."))
        folder = RunFolder.open(RunFolder.latest(runs, recipe.task))
    else:
        folder = RunFolder.create(runs, recipe.task, asdict(replace(recipe, **given)))
    with folder:
        try:
            _train_and_report(_recipe(folder.config(), recipe), dataset, folder, resume)
        except KeyboardInterrupt:
            saved = folder.has_checkpoint()
            click.echo(_interrupted(folder, recipe.task, "interrupted") if saved else "interrupted before anything was saved", err=True)
            sys.exit(INTERRUPTED)
        finally:
            folder.discard_if_unused()


def _train_and_report(recipe: Recipe, dataset: Dataset, folder: RunFolder, resume: bool) -> None:
    finished = _train(recipe, dataset, folder, resume)
    if finished.interrupted:
        click.echo(_interrupted(folder, recipe.task, f"interrupted at step {finished.steps}"))
        sys.exit(128 + finished.interrupted)            # 130 after Ctrl-C, 143 after SIGTERM, as shells count
    logits, path = Predictor()(finished.model, dataset.test_x), folder.path / "report.html"
    write_report(path, training_report(finished, dataset, logits, title=dataset.name, subtitle=str(folder.path), config=asdict(recipe)))
    click.echo(f"test accuracy {100 * (1 - error_rate(logits, dataset.test_y)):.2f} %")
    click.echo(f"report {path}")


def _interrupted(folder: RunFolder, task: str, what: str) -> str:
    return f"{what}; saved in {folder.path}. Go on with: adjoint train {task} --resume"


def _recipe(config: dict[str, Any], known: Recipe) -> Recipe:
    """The recipe that a run's config.json holds, checked field by field."""
    expected = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(known).items()}
    if set(config) != set(expected) or any(type(config[name]) is not type(value) for name, value in expected.items()):
        raise ConfigError(explain(f"config.json of this run is not one of `adjoint train {known.task}`.", where="",
                                  remedy="Start a new run."))
    return Recipe(**{**config, "hidden": tuple(config["hidden"])})


def _train(recipe: Recipe, dataset: Dataset, folder: RunFolder, resume: bool) -> Fit:
    kept, held_x, held_y = dataset.hold_out(min(recipe.held_out, len(dataset.train_x) // 5), seed=0)
    features, classes = dataset.train_x.shape[1], len(dataset.classes)
    model = nn.mlp(features, *recipe.hidden, classes, activation=nn.relu, rng=np.random.default_rng(recipe.seed))
    updates = recipe.epochs * (len(kept.train_x) // min(recipe.batch, len(kept.train_x)))
    optimizer = optim.adamw(optim.schedules.cosine(recipe.learning_rate, updates), weight_decay=recipe.weight_decay)
    loss = lambda logits, labels: nn.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
    sizes = "-".join(map(str, (features, *recipe.hidden, classes)))
    click.echo(f"{dataset.name}: {len(kept.train_x)} training, {len(held_x)} validation, {len(dataset.test_x)} test examples; "
               f"network {sizes}")
    with Progress(recipe.epochs) as progress:
        finished = fit(model, (kept.train_x, kept.train_y), optimizer=optimizer, epochs=recipe.epochs, loss=loss, batch=recipe.batch,
                       noise=recipe.noise, seed=recipe.seed, validation=(held_x, held_y), folder=folder, resume=resume, progress=progress)
    if not finished.interrupted:
        click.echo(f"trained {finished.steps} steps in {duration(finished.training_seconds)}")
    return finished


@adjoint.command(context_settings={"ignore_unknown_options": True})
@click.option("-n", "ranks", type=click.IntRange(1), required=True, help="Ranks (processes) in all.")
@click.option("--nnodes", "nodes", type=click.IntRange(1), default=None, help="Machines, as many ranks on each.  [default: all named]")
@click.option("--hosts", default=None, help="Machines reached by ssh, with commas between; messages are not encrypted.")
@click.option("--max-restarts", type=click.IntRange(0), default=0, show_default=True, help="Start the world again when a rank dies.")
@click.option("--hang-seconds", type=click.FloatRange(0, min_open=True), callback=_finite, default=HANG_SECONDS, show_default=True,
              help="Name a rank that others wait for so long, and end the world.")
@click.argument("program", nargs=-1, type=click.UNPROCESSED, required=True)
def launch(program: tuple[str, ...], **options: Any) -> None:
    """Run a Python PROGRAM on several ranks, through mpiexec.

    Status: 0 finished, 124 a rank hangs, 130 after Ctrl-C, else the program's own.
    """
    sys.exit(launched(program, **options, say=click.echo))


@adjoint.command()
@click.option("--seconds", type=click.FloatRange(0.1), callback=_finite, default=3.0, show_default=True, help="How long to measure.")
@click.option("--threads", type=click.IntRange(2, MOST_THREADS), default=None,
              help="Measure so many ranks as threads of this process, without MPI.")
def probe(seconds: float, threads: int | None) -> None:
    """Measure a world of ranks: mpiexec -n 4 adjoint probe.

    Latency, bandwidth, and each all-reduce at some sizes, kept in the cache folder: all_reduce of such a world then takes the fastest.
    """
    measure = lambda communicator: (communicator.rank, probed(communicator, seconds=seconds))
    rank, profile = run_threads(threads, measure)[0] if threads else measure(world())
    if rank == 0:
        click.echo(described(profile))


@adjoint.command()
@click.option("--compute", type=click.FloatRange(0, min_open=True), callback=_finite, help="Seconds of one worker's gradient.")
@click.option("--size", type=click.FloatRange(0), callback=_finite, help="Bytes of all gradients: 4 for each float32 parameter.")
@click.option("--task", type=click.Choice(["digits", "fashion-mnist"]), help="Measure both on this task's network, here and now.")
@click.option("-n", "--workers", default="1,4,16,64,256,1024", show_default=True, help="Numbers of workers, with commas between.")
@click.option("--link", help=f"{', '.join(LINKS)}, or seconds,bytes-a-second.  [default: 1gbit]")
@click.option("--profile", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A file of `adjoint probe`, not a link.")
@click.option("--jitter", type=click.FloatRange(0, 1), callback=_finite, default=0.0,
              help="Share of the compute that varies from worker to worker.")
@click.option("--overlap", type=click.FloatRange(0, 1), callback=_finite, default=0.0,
              help="Share of the compute that hides communication.")
@click.option("--moments", type=click.IntRange(0), default=2, show_default=True, help="The optimizer's arrays of the parameters' size.")
@click.option("--every-strategy", is_flag=True, help="A line for each strategy, not for the best alone.")
@click.option("--svg", type=click.Path(dir_okay=False, path_type=Path), help="Draw efficiency against workers into this file.")
def plan(workers: str, link: str | None, profile: Path | None, svg: Path | None, every_strategy: bool, **options: Any) -> None:
    """How long a step of n workers takes, which strategy to use, and why."""
    work = _work(**options)
    counts = [int(word) for word in workers.split(",") if word.strip().isdecimal()]
    if len(counts) != len(workers.split(",")) or 0 in counts:
        raise ConfigError(explain(f"--workers is {workers!r:.60}.", where="", remedy="Whole numbers with commas between: 4,16,64."))
    if link and profile:
        raise ConfigError(explain(f"--link {link} and --profile {profile}, expected one of them.", where="",
                                  remedy="Leave --link out: the profile says how fast the links are."))
    measured = read(profile) if profile else None
    links = measured.links() if measured else links_of(link or "1gbit")
    click.echo(planned(counts, work, links, every_strategy=every_strategy, **({"costs": measured.costs()} if measured else {})))
    if svg:
        title = f"{volume(work.size)} of gradients, {duration_of(work.compute)} of compute"
        picture = drawing(work, title, LINKS | ({"measured here": links} if measured else {}))
        try:
            svg.write_text(picture, encoding="utf-8")
        except OSError as error:
            raise ConfigError(explain(f"--svg {svg} cannot be written: {error.strerror}.", where="",
                                      remedy="Name a file in a folder that exists.")) from None
        click.echo(f"drawn {svg}")


@adjoint.command()
@click.argument("trace", type=click.Path(path_type=Path))
@click.option("--steps", type=(click.IntRange(1), click.IntRange(1)), default=None,
              help="The first step and the last.  [default: the last three]")
@click.option("--title", default="", help="Above the picture.")
@click.option("--svg", type=click.Path(dir_okay=False, path_type=Path), default=None, help="The picture.  [default: TRACE.svg]")
def timeline(trace: Path, steps: tuple[int, int] | None, title: str, svg: Path | None) -> None:
    """Draw what every rank did when: DataParallel and ParameterServer(world, timeline=TRACE) write TRACE.rank0.json, ..."""
    trace = trace_of(trace)
    svg = svg or trace.with_name(f"{trace.name}.svg")
    try:
        lines = draw(trace, svg, title=title, steps=steps)
    except OSError as error:
        raise ConfigError(explain(f"--svg {svg} cannot be written: {error.strerror}.", where="",
                                  remedy="Name a file in a folder that exists.")) from None
    click.echo("\n".join([*lines, f"drawn {svg}"]))


def _work(compute: float | None, size: float | None, task: str | None, **shares: Any) -> Work:
    """What one worker has to do, as it was said or as it is measured."""
    if task is None and (compute is None or size is None):
        raise ConfigError(explain("plan: how much work a step is was not said.", where="",
                                  remedy="--compute 0.25 --size 102e6, or --task digits to measure it here."))
    if task is not None:
        recipe, features = (DIGITS, 64) if task == "digits" else (FASHION, 784)
        seconds, nbytes = _gradient_of(recipe, features)
        compute, size = seconds if compute is None else compute, nbytes if size is None else size
    return Work(compute, size, **shares)


def _gradient_of(recipe: Recipe, features: int) -> tuple[float, float]:
    """Seconds of a compiled gradient of a recipe's network, the best of some calls, and the bytes of the gradients."""
    rng = np.random.default_rng(0)
    model = nn.mlp(features, *recipe.hidden, 10, activation=nn.relu, rng=rng)
    x, y = rng.standard_normal((recipe.batch, features)).astype(np.float32), rng.integers(0, 10, recipe.batch)
    gradient = compile(grad(lambda model, x, y: nn.cross_entropy(model(x), y)))
    leaves, seconds = flatten(gradient(model, x, y))[0], math.inf
    for _ in range(30):
        start = time.perf_counter()
        gradient(model, x, y)
        seconds = min(seconds, time.perf_counter() - start)
    return seconds, float(sum(leaf.nbytes for leaf in leaves))


def main() -> None:
    """Entry point: errors as one message on standard error; 130 after Ctrl-C."""
    try:
        adjoint.main(standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except AdjointError as error:
        click.echo(f"{type(error).__name__}: {error}", err=True)
        sys.exit(1)
