"""Publishes a version into the model repository atomically: a draft directory is written, checked and renamed."""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import keras
import tensorflow as tf
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from contract import signatures
from contract.audit import record_command
from contract.card import ID_PATTERN, Direction, GeneratorCard, TrainingReport
from contract.files import sync_directory, sync_tree
from contract.tokenizers import Tokenizer
from contract.training_filter import TrainingFilter
from export.errors import PublishError
from export.graphs.checks import check_precision, check_saved_model
from export.graphs.exportable import Exportable, prepare
from export.graphs.held_out_scores import score_held_out
from export.graphs.signatures import Generator, num_top_of
from export.graphs.specs import Specs, input_specs
from export.graphs.unit_search import find_discoveries
from export.repository.artifacts import write_artifacts
from export.repository.history import Progress
from export.repository.models_config import add_to_models_config, locked, read_entries
from export.repository.versions import KERAS_FILE, next_version

# Requests that a model server replays before it serves a version, so that no client waits for first runs: TFRecords of
# PredictionLog (https://www.tensorflow.org/tfx/serving/saved_model_warmup).
WARMUP_FILE = "tf_serving_warmup_requests"
# Tokens to prefill and decode steps: both only count loop iterations, which need no warm-up, so any number will do.
_WARMUP_LENGTH = 2
# Modules of `export.graphs` whose code is in the graph of a version.
GRAPH_MODULES = (
    "adjustments", "cells", "exportable", "loop", "precision", "projections", "sampling", "signatures", "specs",
    "window",
)  # fmt: skip
# Prefix of a version that is being written, next to the versions, and suffix of its exporter's lock file.
_DRAFT, _LOCK = ".draft-", ".lock"


def publish(
    model: keras.Model | Exportable,
    tokenizer: Tokenizer,
    name: str,
    models_dir: Path | str = "models",
    training: TrainingReport | None = None,
    direction: Direction = "forward",
    context: int | None = None,
    history: Progress | None = None,
    held_out: Sequence[str] = (),
    training_filter: TrainingFilter | None = None,
) -> Path:
    """Export a Keras model as the next version of `name`.

    A model that begins with Embedding, ends with Dense and has SimpleRNN, LSTM, GRU and Dense layers, sums and
    concatenations between them carries its state from token to token. Any other model is a sliding-window model.

    The SavedModel is written to a draft directory, loaded, checked against the Keras model and then renamed: a model
    server never sees an incomplete version, and a failure leaves no files behind.

    Args:
        model: Maps token ids (batch, T) to logits or probabilities, (batch, T, V) or (batch, V); or such a model,
            already prepared.
        tokenizer: Its vocabulary is at most as large as the model's.
        name: Letters, digits, dots, dashes and underscores.
        models_dir: The model repository.
        training: Training report for the card.
        direction: "backward" for a model that generates right to left.
        context: Context length of the sliding window in tokens; None for the model's own fixed length, if it has one.
            If given, even a model that could carry state gets a sliding window.
        history: Epochs of the training, for the README, `history.json` and the plot of the version.
        held_out: Documents that the model was not trained on, for the unit search, the percentiles of scores and the
            loss in bfloat16; without any, that loss is of text sampled from the model.
        training_filter: The filter of the training split, as `export.corpora.training_filter` builds it.

    Returns:
        Directory of the version, `models_dir/name/<version>`.

    Raises:
        UnsupportedModel: the model cannot carry state, and its context length is unknown.
        CheckFailed: the graph does not compute what the Keras model computes.
        PublishError: the name is invalid, the sizes do not match, the history cannot be plotted, or writing failed.
    """
    require_name(name)
    exportable = model if isinstance(model, Exportable) else prepare(model, context)
    _require_sizes(exportable, len(tokenizer.tokens))
    card = _card(exportable, tokenizer, name, training, direction, training_filter)
    home = Path(models_dir) / name
    try:
        home.mkdir(parents=True, exist_ok=True)
        remove_stale_drafts(home)
        with _draft(home) as draft:
            card = _save_graph(draft, exportable, tokenizer, card, held_out)
            _write_assets(draft / signatures.ASSETS, exportable, tokenizer, card, training_filter)
            write_artifacts(draft, card, tokenizer, exportable.vectors, history or Progress())
            check_saved_model(draft, exportable, len(tokenizer.tokens))
            sync_tree(draft)
            version_dir = _rename_to_next_version(draft, home)
            try:
                sync_directory(home)
                add_to_models_config(Path(models_dir), name)
            except (OSError, PublishError):
                # A version that is not listed is not served, and publishing it again would add a second one.
                version_dir.rename(draft)
                raise
        job = training.settings.get("job") if training else None
        record_command("publish", model=f"{name}:{version_dir.name}", **({"job": job} if job else {}))
    except OSError as error:
        raise PublishError(f"{error.filename or home}: {error.strerror or error}") from error
    except tf.errors.OpError as error:
        # TensorFlow reports a full disk as an OpError.
        raise PublishError(f"{home}: {error.message}") from error
    return version_dir


def require_name(name: str) -> None:
    """Raise PublishError unless a name is valid as a directory and in a URL."""
    if not re.fullmatch(ID_PATTERN, name):
        raise PublishError(
            "name must be 1 to 64 letters, digits, dots, dashes and underscores, the first one a letter or a digit, "
            f"got {name!r}"
        )


def require_writable(home: Path) -> None:
    """Raise PublishError before a training run if a version cannot be written to `home` or listed afterwards."""
    # The version is written to `home`, `models.config` to its parent.
    for folder in (home, home.parent):
        nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not nearest.is_dir():
            raise PublishError(f"a version cannot be written to {home}: {nearest} is not a directory")
        if not os.access(nearest, os.W_OK | os.X_OK):
            uid, gid, status = os.getuid(), os.getgid(), nearest.stat()
            raise PublishError(
                f"a version cannot be written to {home}: uid {uid} (gid {gid}) may not write to {nearest}, which "
                f"belongs to {status.st_uid}:{status.st_gid}: let its owner or root run "
                f"`chown -R {uid}:{gid} {nearest}`"
            )
    read_entries(home.parent)


def _require_sizes(model: Exportable, num_tokens: int) -> None:
    vocab_size, vectors = model.network.vocab_size, model.vectors
    if vocab_size < num_tokens:
        raise PublishError(f"the model has {vocab_size} outputs, too few for a tokenizer of {num_tokens} tokens")
    if vectors is not None and len(vectors) < num_tokens:
        raise PublishError(f"the embedding has {len(vectors)} ids, too few for a tokenizer of {num_tokens} tokens")


@contextlib.contextmanager
def _draft(home: Path) -> Iterator[Path]:
    """Yield a unique draft directory name; delete the draft on exit, unless it was renamed.

    Its lock is held meanwhile, so that other exporters, in any container or on any machine, know that it is in use.
    """
    draft = home / f"{_DRAFT}{secrets.token_hex(8)}"
    lock = draft.with_suffix(_LOCK)
    with locked(home.parent):
        # A concurrent removal may have deleted the empty directory.
        home.mkdir(exist_ok=True)
        file = lock.open("w")
        # Still under the other lock: otherwise another exporter's `remove_stale_drafts` would delete the file.
        fcntl.flock(file, fcntl.LOCK_EX)
    with file:
        try:
            yield draft
        finally:
            shutil.rmtree(draft, ignore_errors=True)
            lock.unlink(missing_ok=True)


def remove_stale_drafts(home: Path) -> None:
    """Delete the drafts of killed exporters."""
    with locked(home.parent):
        for lock in home.glob(f"{_DRAFT}*{_LOCK}"):
            with contextlib.suppress(OSError), lock.open("w") as file:
                # Fails immediately if an exporter holds it.
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
                lock.unlink()


def _card(
    exportable: Exportable,
    tokenizer: Tokenizer,
    name: str,
    training: TrainingReport | None,
    direction: Direction,
    training_filter: TrainingFilter | None,
) -> GeneratorCard:
    return GeneratorCard(
        name=name,
        cell=exportable.cell,
        layers=exportable.layers,
        embedding=0 if exportable.vectors is None else exportable.vectors.shape[1],
        context=exportable.context,
        units=exportable.network.output_size,
        state_size=exportable.network.state_size,
        vocab_size=exportable.network.vocab_size,
        unit=tokenizer.unit,
        direction=direction,
        weights_sha256=exportable.weights_sha256,
        code_sha256=_code_sha256(),
        tensorflow=tf.__version__,
        created=int(time.time()),
        activations=tuple(exportable.network.activations),
        num_top=num_top_of(exportable.network.vocab_size),
        revision=signatures.REVISION,
        training=training,
        training_filter=training_filter.description() if training_filter else None,
    )


def _code_sha256() -> str:
    """Hash the modules that build the graph: a change to loop or sampling may change the sampled tokens."""
    digest = hashlib.sha256(Path(str(signatures.__file__)).read_bytes())
    for name in GRAPH_MODULES:
        digest.update((Path(__file__).parents[1] / "graphs" / f"{name}.py").read_bytes())
    return digest.hexdigest()


def _save_graph(
    draft: Path, exportable: Exportable, tokenizer: Tokenizer, card: GeneratorCard, held_out: Sequence[str]
) -> GeneratorCard:
    """Write the SavedModel; return the card with measurements by signatures: discoveries, scores, cost of bfloat16."""
    generator = Generator(exportable.network, tokenizer.special, len(tokenizer.tokens))
    functions = generator.signatures()
    with _without_info_logs():
        tf.saved_model.save(generator, str(draft), signatures=functions)
    found = find_discoveries(functions[signatures.INSPECT], tokenizer, held_out, card)
    scores = score_held_out(functions[signatures.SCORE], tokenizer, held_out, card)
    card = card.model_copy(update={"discoveries": found, "held_out_scores": scores})
    if len(exportable.network.precisions) < 2:
        return card
    check = check_precision(functions, tokenizer, held_out, card)
    return card.model_copy(update={"precision_check": check})


def _write_assets(
    assets: Path,
    exportable: Exportable,
    tokenizer: Tokenizer,
    card: GeneratorCard,
    training_filter: TrainingFilter | None,
) -> None:
    """Write the files that gateway and model servers read beside the SavedModel, and the Keras model."""
    assets.mkdir()
    # Not in bfloat16: a gateway calls these signatures before it serves the version, if it uses them at all.
    _write_warmup(assets / WARMUP_FILE, input_specs(card.state_size, card.units, card.vocab_size), card.batch_sizes)
    (assets / signatures.CARD_FILE).write_text(card.model_dump_json(indent=1) + "\n", encoding="utf-8")
    (assets / signatures.TOKENIZER_FILE).write_text(tokenizer.to_json(), encoding="utf-8")
    if training_filter is not None:
        (assets / signatures.TRAINING_FILTER_FILE).write_bytes(training_filter.to_bytes())
    if exportable.keras_model is not None:
        exportable.keras_model.save(assets / KERAS_FILE)


def _write_warmup(path: Path, inputs: Mapping[str, Specs], batch_sizes: Sequence[int]) -> None:
    """Write a request for each signature and batch size, by which a GPU's libraries choose their kernels."""
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, of_signature in inputs.items():
            for batch_size in batch_sizes:
                writer.write(_warmup_request(signature, of_signature, batch_size).SerializeToString())


def _warmup_request(signature: str, inputs: Specs, batch_size: int) -> PredictionLog:
    log = PredictionLog()
    request = log.predict_log.request
    request.model_spec.signature_name = signature
    for name, spec in inputs.items():
        # One value and a shape: TensorFlow fills the tensor with the value, so a request takes at most a kilobyte. 1 is
        # valid as every token id, count, length and number of steps, and 0.5 as every float.
        tensor = request.inputs[name]
        tensor.dtype = spec.dtype.as_datatype_enum
        for size in (batch_size, *spec.shape[1:]):
            tensor.tensor_shape.dim.add(size=size or _WARMUP_LENGTH)
        if spec.dtype.is_floating:
            tensor.float_val.append(0.5)
        else:
            tensor.int_val.append(1)
    return log


@contextlib.contextmanager
def _without_info_logs() -> Iterator[None]:
    """Suppress TensorFlow's log message with the path of the SavedModel, which is the draft's."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel("WARNING")
    try:
        yield
    finally:
        logger.setLevel(level)


def _rename_to_next_version(draft: Path, home: Path) -> Path:
    """Rename the draft to the next version number, or to the one after if another exporter takes it first."""
    version = next_version(home)
    while True:
        try:
            return draft.rename(home / str(version))
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            version += 1
