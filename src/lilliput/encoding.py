"""The stages of `make` with `objective: masked`: corpus, tokenizer, shards, shape, training, scores, model directory.

The stages before training are those of a decoder's run; what differs is the tokenizer (a WordPiece, with a mask), the
shape, the windows and what is learned.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch

from lilliput import device as machine
from lilliput.corpus.documents import Documents
from lilliput.corpus.shards import Shards
from lilliput.encoder_results import MadeEncoder, finish_encoder
from lilliput.errors import ConfigError
from lilliput.evaluate.masked import masked_loss, windows_of
from lilliput.export.encoder_dir import fill_encoder, load_encoder, read_encoder_config, save_encoder, write_encoder
from lilliput.export.weights import WEIGHTS
from lilliput.model.encoder import Encoder, initialise_encoder
from lilliput.model.encoder_config import EncoderConfig
from lilliput.plan.encoder import check_encoder_keys, encoder_shape
from lilliput.plan.rules import counted
from lilliput.progress import say
from lilliput.recipe import ModelSettings, Recipe, build_recipe
from lilliput.results import up_to
from lilliput.run import Run
from lilliput.settle import identify, read_notes, training_identity, training_values
from lilliput.store import Stage, Store, file_hash, locked, write_atomic, write_json
from lilliput.texts import Texts, tell
from lilliput.tokenizer.load import Tokenizer
from lilliput.tokenizer.special import Specials, for_encoder
from lilliput.tokenizer.train_wordpiece import train_wordpiece
from lilliput.train import parallel
from lilliput.train.config import FREE_KEYS, TrainConfig
from lilliput.train.derive_encoder import derive_masked
from lilliput.train.further import trained
from lilliput.train.loop import train
from lilliput.train.masked import Masked, Pieces

# Raised when the output changes for the same settings, so that an older one is not taken for it.
_FORMATS = {"wordpiece": 1, "encoder": 1}
_UNTRAINED = "# An encoder before any training\n\nIts weights are random: take its shape and tokenizer alone.\n"
# Windows scored at each evaluation on the way.
_DURING = 64


class EncoderRun(Run):
    """A masked language model."""

    @classmethod
    def check(cls, recipe: Recipe) -> None:
        """Refuse what cannot be made, before any work."""
        if parallel.asked() > 1 and recipe.model.conv:
            mend = "start it without torchrun, or leave out model.conv"
            raise ConfigError("batch norm's statistics are those of one process", where="model.conv", mend=mend)
        check_encoder_keys(recipe)
        if recipe.source is None:
            encoder_shape(recipe, _taken(recipe).vocab_size if recipe.tokenizer.source else None)
            return
        config, _, _ = read_encoder_config(Path(recipe.source).expanduser())
        free = ("family", "dropout", "init")
        fixed = [f"model.{name}" for name, value in recipe.model if name not in free and value != _default(name)]
        fixed += ["tokenizer.vocab_size"] if recipe.tokenizer.vocab_size else []
        fixed += ["tokenizer.from"] if recipe.tokenizer.source else []
        if fixed:
            raise ConfigError(
                f"an encoder that is trained further keeps its shape ({config.depth} × {config.width}) and tokenizer",
                where=fixed[0],
                mend=f"leave out {' and '.join(fixed)}, or leave out from",
            )

    @classmethod
    def identify(cls, recipe: Recipe) -> dict[str, Any]:
        """Content hashes of everything the run reads."""
        inputs = identify(recipe.model_copy(update={"source": None}))
        if recipe.source is not None:
            folder = Path(recipe.source).expanduser()
            load_encoder(folder)
            files = [folder / "config.json", folder / "tokenizer.json", *sorted(folder.glob("*.safetensors"))]
            inputs["from"] = {file.name: file_hash(file) for file in files if file.exists()}
        return inputs

    def make(self) -> dict[str, Any]:
        """Run every stage that is missing."""
        if self.world.main:
            write_json(self.folder / "run.json", training_identity(self.asked, self.inputs))
        settled = self._settled() if self.decide((self.folder / "recipe.yaml").exists()) else None
        texts = Texts(self.asked, self.inputs, self._stage, settled)
        corpus = texts.corpus()
        tokenizer, special = self._tokenizer(texts, corpus, settled)
        packed = texts.shards(corpus, tokenizer)
        shards = Shards(packed.path, "train", tokenizer.hash)
        shape = self._shape(tokenizer, special, settled)
        pieces = Pieces(shards, shape.context, special, first=self.asked.masked.first)
        config, notes = self._plan(shape, pieces, round(pieces.share * packed.manifest["text_bytes"]), settled)
        held_out = Documents(corpus.path, "dev")
        weights = self._weights(packed.hash, pieces, shape, special, config, tokenizer, held_out)
        if weights is None:
            return {}
        made = MadeEncoder(
            folder=self.folder,
            key=self._key(),
            asked=self.asked,
            settled=self._settled(),
            notes=notes,
            corpus=corpus,
            tokenizer=tokenizer,
            special=special,
            bytes_per_token=packed.manifest["text_bytes"] / packed.manifest["tokens"],
            shape=shape,
            weights=weights,
        )
        return finish_encoder(made, self.store, self.device)

    def begin(self) -> dict[str, Any]:
        """The encoder before any training: corpus, tokenizer, shape and first weights. Its model directory, and what
        there is to say of it."""
        texts = Texts(self.asked, self.inputs, self._stage)
        tokenizer, special = self._tokenizer(texts, texts.corpus(), None)
        model = Encoder(self._shape(tokenizer, special, None))
        initialise_encoder(model, self.asked.seed)
        readable, _ = for_encoder(tokenizer, masks_in_text=True)
        save_encoder(self.folder / "model", model, readable, {"recipe": self.asked.to_dict()}, _UNTRAINED)
        return {
            "parameters": model.config.parameters(),
            "shape": {"family": model.config.family, **asdict(model.config)},
            "tokenizer": {"vocab_size": tokenizer.vocab_size, "hash": tokenizer.hash},
            "cost": {"seconds": 0.0, "tokens": 0, "flops": 0.0, "skipped": 0, "peak_memory": 0},
            "baselines": {},
            "samples": [],
            "machine": machine.machine(),
            "versions": machine.versions(),
        }

    def _tokenizer(self, texts: Texts, corpus: Stage, settled: Recipe | None) -> tuple[Tokenizer, Specials]:
        """The recipe's, the base model's, or a WordPiece trained on the corpus; with padding and mask."""
        if self.asked.source is not None or self.asked.tokenizer.source is not None:
            base = self.asked.source
            found = Tokenizer.load(Path(base).expanduser()) if base else _taken(self.asked)
            say(f"tokenizer  {found.vocab_size:,} pieces, from {base or self.asked.tokenizer.source}")
            return for_encoder(found)
        planned = settled.tokenizer.vocab_size if settled else None
        size = planned or encoder_shape(self.asked).vocab_size

        def build(folder: Path) -> dict[str, Any]:
            made = train_wordpiece(Documents(corpus.path, "train"), size)
            made.save(folder)
            return {"vocab_size": made.vocab_size}

        key = {"format": _FORMATS["wordpiece"], "kind": "wordpiece", "corpus": corpus.hash, "vocab_size": size}
        stage = self._stage("tokenizer", key, build)
        tell("tokenizer", stage, f"{stage.manifest['vocab_size']:,} pieces of lower-cased WordPiece")
        return for_encoder(Tokenizer.load(stage.path))

    def _shape(self, tokenizer: Tokenizer, special: Specials, settled: Recipe | None) -> EncoderConfig:
        if self.asked.source is not None:
            shape, _, _ = read_encoder_config(Path(self.asked.source).expanduser())
            dropout = self.asked.model.dropout
            return shape if dropout is None else replace(shape, dropout=dropout)
        shape = encoder_shape(settled or self.asked, tokenizer.vocab_size)
        return replace(
            shape, pad_id=special.pad, cls_id=special.cls, sep_id=special.sep, mask_id=special.mask
        )

    def _plan(
        self, shape: EncoderConfig, pieces: Pieces, size: int, settled: Recipe | None
    ) -> tuple[TrainConfig, list[str]]:
        """Settle training once; a resumed run takes what its `recipe.yaml` says."""
        recipe, source = settled or self.asked, self.asked.source
        before = trained(Path(source).expanduser(), shape.parameters()) if source is not None else None
        config, notes = derive_masked(
            recipe.train, shape, pieces.windows(shape.context), pieces.tokens, size, recipe.masked.rate,
            self.asked.seed, self.device, before,
        )  # fmt: skip
        say(f"plan       {described(shape)}")
        if settled:
            say(f"training   as settled before in {self.folder / 'recipe.yaml'}")
            return config, read_notes(self.folder / "recipe.yaml")
        for note in notes:
            say(f"           {note}")
        if self.world.main:
            text = _settle(self.asked, shape, config, pieces)
            header = "".join(f"#   {note}\n" for note in notes)
            write_atomic(self.folder / "recipe.yaml", f"# Settled for this run:\n{header}{text}")
        self.world.wait()
        return config, notes

    def _weights(
        self,
        data: str,
        pieces: Pieces,
        shape: EncoderConfig,
        special: Specials,
        config: TrainConfig,
        tokenizer: Tokenizer,
        held_out: Documents,
    ) -> Stage | None:
        """The finished weights: found, or trained here (None in all but the main process)."""
        key = {
            "format": _FORMATS["encoder"],
            "tokens": data,
            "from": self.inputs["from"],
            "shape": shape.identity(),
            "masked": self.asked.masked.model_dump(),
            "processes": self.world.size,
            "train": {name: value for name, value in asdict(config).items() if name not in FREE_KEYS},
        }
        found = self.store.find("weights", key) if self.world.main else None
        if self.decide(found is not None):
            if found is not None:
                tell("weights", found, f"{shape.parameters():,} parameters")
                shutil.copyfile(found.path / "metrics.jsonl", self.folder / "metrics.jsonl")
            return found
        torch.set_num_threads(config.threads)
        # As Cramming (2212.14034) has it: what is read once cannot be learned by heart. The shape's own rate is that
        # of fine-tuning, and goes to config.json.
        model = Encoder(replace(shape, dropout=self.asked.masked.dropout))
        if self.asked.source is not None:
            fill_encoder(model, Path(self.asked.source).expanduser())
        else:
            initialise_encoder(model, self.asked.seed)
        texts = up_to(held_out, self.asked.evaluate.during)
        sample = windows_of(islice(texts, _DURING), tokenizer, special, shape.context)[:_DURING]
        score = partial(masked_loss, windows_WS=sample, special=special, rate=self.asked.masked.rate, title=None)
        objective = Masked(special, shape.vocab_size, self.asked.masked.rate, trim=not config.compile)
        done = train(
            model, pieces, config, self.folder, device=self.device, objective=objective,
            evaluator=lambda live: {"masked_loss": score(cast("Encoder", live)).value},
        )  # fmt: skip
        if not self.world.main:
            return None

        def publish(folder: Path) -> dict[str, Any]:
            write_encoder(folder / WEIGHTS, model)
            shutil.copyfile(self.folder / "metrics.jsonl", folder / "metrics.jsonl")
            tokens = round(done.epochs * pieces.tokens)
            flops = shape.step_flops(tokens, self.asked.masked.rate * tokens)
            # The loop counts positions; a token is one that holds text.
            cost = {"flops": flops, **asdict(done), "tokens": tokens, "positions": done.tokens}
            return {"cost": cost, "weights": file_hash(folder / WEIGHTS)}

        return self.store.stage("weights", key, publish)


def untrained(recipe: Recipe, out: Path, store: Store, device: str = "auto") -> dict[str, Any]:
    """What `make` would begin with: shape, tokenizer and random weights, in `out/model`; what there is to say of it."""
    run = EncoderRun.prepare(recipe, out, store, device)
    with locked(run.folder / ".lock", str(run.folder)):
        return cast("EncoderRun", run).begin()


def described(shape: EncoderConfig) -> str:
    """The shape in a line."""
    front = f", {counted(shape.conv, 'convolution')} of {shape.channels} channels before" if shape.conv else ""
    layers = f"{counted(shape.depth, 'layer')} × width {shape.width}"
    return (
        f"{shape.parameters():,} parameters: {layers}, {counted(shape.heads, 'head')} of {shape.head_dim}, "
        f"FFN {shape.ffn}, "
        f"{shape.vocab_size:,} pieces, {shape.context} positions{front}"
    )


def _default(name: str) -> Any:
    return ModelSettings.model_fields[name].default


def _taken(recipe: Recipe) -> Tokenizer:
    """The tokenizer that the recipe names, with padding and mask."""
    asked = recipe.tokenizer
    found = Tokenizer.load(Path(str(asked.source)).expanduser(), pattern=asked.pattern, special=asked.special)
    return for_encoder(found)[0]


def _settle(recipe: Recipe, shape: EncoderConfig, config: TrainConfig, pieces: Pieces) -> str:
    """The recipe with every derived value filled in, as YAML."""
    values = recipe.to_dict()
    if recipe.source is None:
        if recipe.tokenizer.source is None:
            # What was planned: the tokenizer may have turned out smaller where the text is short.
            values["tokenizer"]["vocab_size"] = encoder_shape(recipe).vocab_size
        names = ("depth", "width", "heads", "head_dim", "ffn", "context", "dropout", "conv", "channels")
        values["model"] |= {name: getattr(shape, name) for name in names} | {"expansion": None}
    epochs = config.steps * config.batch_sequences / pieces.windows(shape.context)
    values["train"] |= training_values(config) | {"tokens": None, "epochs": epochs}
    return build_recipe(values, where="recipe.yaml").to_yaml()
