"""`lilliput classify`: fine-tune an encoder to tell labels, test it, use it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lilliput.cli import options
from lilliput.cli.outcome import Answer

if TYPE_CHECKING:
    from lilliput.corpus.labelled import Fields, Rows
    from lilliput.corpus.layouts import Labelled
    from lilliput.tuning import Tuning

_SCRATCH = "scratch"
_SHOWN = 60

Data = Annotated[
    str | None,
    typer.Option(metavar="NAME|DIR", help="A data set: ag_news, dbpedia14 or fewrel, or a folder.", show_default=False),
]
Train = Annotated[Path | None, typer.Option(metavar="FILE", help="CSV, TSV or JSONL rows.", show_default=False)]
Test = Annotated[Path | None, typer.Option(metavar="FILE", help="The rows to test on.", show_default=False)]
TextField = Annotated[
    list[str] | None, typer.Option(metavar="NAME", help="A field of the text; may be repeated.", show_default=False)
]
LabelField = Annotated[str | None, typer.Option(metavar="NAME", help="The field of the label.", show_default=False)]
PerLabel = Annotated[int | None, typer.Option(help="Training rows of each label; all if not given.", min=1)]
Epochs = Annotated[float, typer.Option(help="Passes over the training rows; the last one counts.", min=0.01)]
Batch = Annotated[int, typer.Option(help="Rows a step.", min=1)]
Rate = Annotated[float | None, typer.Option("--lr", help="Peak learning rate.", min=1e-9, max=1, show_default=False)]
Length = Annotated[
    int | None,
    typer.Option(
        help="Tokens of a text at most, [CLS] and [SEP] among them; 128, or what the classifier was trained with.",
        min=3,
        show_default=False,
    ),
]
Balanced = Annotated[bool, typer.Option("--balanced", help="Let rows weigh by how rare their label is.")]

Out = Annotated[Path | None, typer.Option(help="The folder; by default one under runs/.", show_default=False)]


def classify(
    encoder: Annotated[
        str, typer.Argument(metavar="ENCODER|scratch", help="An encoder, a classifier to use, or `scratch`.")
    ],
    like: Annotated[
        Path | None, typer.Option(help="`scratch`: take shape and tokenizer of this encoder.", show_default=False)
    ] = None,
    data: Data = None,
    train: Train = None,
    test: Test = None,
    text_field: TextField = None,
    label_field: LabelField = None,
    per_label: PerLabel = None,
    epochs: Epochs = 10.0,
    seeds: Annotated[int, typer.Option(help="Fine-tune so many times.", min=1, max=1000)] = 1,
    seed: Annotated[int, typer.Option(help="The first seed.", min=0)] = 0,
    batch: Batch = 32,
    lr: Rate = None,
    length: Length = None,
    balanced: Balanced = False,
    predict: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Tell the labels of these texts.", show_default=False)
    ] = None,
    out: Out = None,
    device: options.Device = "auto",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> Answer:
    """Fine-tune an encoder to tell labels and test it, TF-IDF with logistic regression beside it; or use a classifier.

    `scratch` begins with random weights of the shape that --like names. All weights are trained for --epochs, the last
    epoch's are tested, and nothing is chosen by the test rows.
    """
    options.be_quiet(quiet)
    from lilliput.errors import ConfigError
    from lilliput.tuning import Tuning

    learns = data is not None or train is not None or test is not None
    if not learns and predict is None:
        mend = "--data NAME, or --train FILE --test FILE; with a classifier: --predict FILE"
        raise ConfigError("there is nothing to learn from and nothing to tell", where="lilliput classify", mend=mend)
    if not learns:
        return _use(options.model_folder(Path(encoder)), predict, fields_of(text_field, None), length, device)
    labelled = read_data(data, train, test, fields_of(text_field, label_field))
    tuning = Tuning(
        epochs=epochs, batch=batch, lr=lr, length=length or Tuning.length, balanced=balanced, per_label=per_label
    )
    results = _fine_tune(encoder, like, labelled, tuning, range(seed, seed + seeds), out, device)
    answer, text = {**results}, "\n".join(_lines(results))
    if predict is not None:
        told = _use(Path(results["model"]), predict, fields_of(text_field, None), length, device)
        answer["predictions"] = (told.data or {})["predictions"]
        text += f"\n\n{told.text}"
    return Answer(answer, text)


def _fine_tune(
    encoder: str, like: Path | None, data: Labelled, tuning: Tuning, seeds: range, out: Path | None, device: str
) -> dict[str, Any]:
    from dataclasses import asdict

    from lilliput.classify import Job
    from lilliput.classify import classify as run
    from lilliput.device import pick_device
    from lilliput.errors import ConfigError
    from lilliput.store import Store, canonical_hash
    from lilliput.tuning import Start

    scratch = encoder == _SCRATCH
    if scratch and like is None:
        mend = "--like ENCODER names one whose shape and tokenizer are taken, without its weights"
        raise ConfigError("a start from scratch needs a shape", where="scratch", mend=mend)
    if not scratch and like is not None:
        raise ConfigError("--like is for scratch", where="--like", mend="leave it out")
    start = Start.read(options.model_folder(Path(like if scratch and like else encoder)), scratch=scratch)
    if out is None:
        mark = canonical_hash([start.identity(), scratch, asdict(tuning), list(seeds), data.train.texts[:100]])[:8]
        out = Path("runs", f"classify-{data.name}-{mark}")
    folder, place = out.expanduser().absolute(), pick_device(device)
    return run(Job(start, data, tuning, list(seeds), folder, Store(), place))


def read_data(data: str | None, train: Path | None, test: Path | None, fields: Fields) -> Labelled:
    """The rows that the options name. Raises ConfigError, CorpusError."""
    from lilliput.corpus.labelled import read_labelled
    from lilliput.corpus.layouts import Labelled, align, read_set, set_place
    from lilliput.errors import ConfigError

    if data is not None:
        if train is not None or test is not None:
            raise ConfigError("a data set has its own rows", where="--data", mend="leave out --train and --test")
        return read_set(set_place(data))
    if train is None or test is None:
        absent = "--train" if train is None else "--test"
        raise ConfigError(f"{absent} is missing", where="lilliput classify", mend=f"{absent} FILE")
    one, other = (read_labelled(file.expanduser(), fields) for file in (train, test))
    return Labelled(train.name.split(".")[0], one, other, {}, align(one, other))


def read_training(data: str | None, train: Path | None, fields: Fields) -> Rows:
    """The training rows alone. Raises ConfigError, CorpusError."""
    from lilliput.corpus.labelled import read_labelled
    from lilliput.corpus.layouts import read_set, set_place
    from lilliput.errors import ConfigError

    if (data is None) == (train is None):
        mend = "--data NAME or --train FILE"
        raise ConfigError("one set of training rows is needed", where="--data", mend=mend)
    return read_set(set_place(str(data))).train if train is None else read_labelled(train.expanduser(), fields)


def fields_of(text: list[str] | None, label: str | None) -> Fields:
    """The fields that the options name."""
    from lilliput.corpus.labelled import Fields

    return Fields(tuple(text or ()), label)


def _use(model: Path, file: Path | None, fields: Fields, length: int | None, device: str) -> Answer:
    """The labels that a classifier gives to the texts of a file."""
    from lilliput.corpus.labelled import read_labelled
    from lilliput.device import pick_device
    from lilliput.serving import open_classifier

    rows = read_labelled(Path(str(file)).expanduser(), fields, labels=False)
    classifier = open_classifier(model, pick_device(device))
    found = classifier.tell(rows.texts, length)
    told, lines = [], []
    for (label, probability), text in zip(found, rows.texts, strict=True):
        told.append({"label": label, "probability": round(probability, 4), "text": text})
        lines.append(f"{label}\t{probability:.2f}\t{' '.join(text.split())[:_SHOWN]}")
    return Answer({"model": str(model.absolute()), "predictions": told}, "\n".join(lines))


def _lines(results: dict[str, Any]) -> list[str]:
    from lilliput.report.classifier_card import points
    from lilliput.report.text import aligned

    rows, count = results["rows"], len(results["seeds"])
    base, gain = results["baseline"], results["gain"]
    kind = "from scratch" if results["scratch"] else "pre-trained"
    over = f"{count} seeds" if count > 1 else "1 seed: the interval is of the test rows alone"
    table = aligned(
        [
            [f"{results['data']}, {rows['labels']} labels", "accuracy", "macro-F1"],
            [kind, points(results["accuracy"]), points(results["macro_f1"])],
            [base["name"], points(base["accuracy"]), points(base["macro_f1"])],
        ]
    )
    return [
        "",
        *table,
        "",
        f"gain in accuracy  {100 * gain['value']:+.2f} points [{100 * gain['low']:+.2f}, {100 * gain['high']:+.2f}]",
        f"tested on         {rows['test']:,} rows, {over}",
        f"model             {results['model']}",
        f"report            {results['report']}",
        "",
        "Next:",
        f"  lilliput classify {results['model']} --predict FILE",
    ]
