"""A directory of models, filled as an exporter fills it."""

import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import tensorflow as tf
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog, PredictLog


class Models:
    """The directory that `/models` of the config stands for."""

    def __init__(self, root: Path, saved_model: Callable[..., Path]) -> None:
        self.root = root
        self._saved_model = saved_model

    def draft(self, version: int | str, weight: float = 2.0, *, name: str = "tiny", echoes: bool = False) -> Path:
        """Write a version to a temporary directory beside its final path, as an exporter does."""
        path = self.root / name / f".{version}.tmp"
        shutil.copytree(self._saved_model(weight, echoes=echoes), path)
        return path

    def finish(self, draft: Path) -> Path:
        """Rename a draft to its final path."""
        return draft.rename(draft.with_name(draft.name.removeprefix(".").removesuffix(".tmp")))

    def publish(
        self,
        version: int | str,
        weight: float = 2.0,
        *,
        name: str = "tiny",
        warmup: Sequence[PredictRequest] = (),
        echoes: bool = False,
    ) -> Path:
        """Publish a version by an atomic rename, with these warm-up requests."""
        draft = self.draft(version, weight, name=name, echoes=echoes)
        if warmup:
            write_warmup(draft, [PredictionLog(predict_log=PredictLog(request=request)) for request in warmup])
        return self.finish(draft)

    def configure(self, *entries: str) -> Path:
        """Replace models.config atomically; without entries, it lists `tiny` alone."""
        path = self.root / "models.config"
        path.with_suffix(".new").write_text(self.config(*entries or [self.entry()]))
        return path.with_suffix(".new").rename(path)

    @staticmethod
    def config(*entries: str) -> str:
        """Return a config of these entries."""
        return f"model_config_list {{ {' '.join(entries)} }}"

    @staticmethod
    def entry(name: str = "tiny", *, versions: Iterable[int] = (), extra: str = "", **labels: int) -> str:
        """Return the config entry of a model: its specific versions, or else the latest one, and its labels."""
        listed = " ".join(f"versions: {version}" for version in versions)
        policy = f"model_version_policy {{ specific {{ {listed} }} }}" if listed else ""
        named = " ".join(f'version_labels {{ key: "{key}" value: {value} }}' for key, value in labels.items())
        fields = f'name: "{name}" base_path: "/models/{name}" model_platform: "tensorflow"'
        return f"config {{ {fields} {policy} {named} {extra} }}"


def write_warmup(version_dir: Path, logs: Iterable[PredictionLog]) -> None:
    """Write a warm-up file of these records."""
    (version_dir / "assets.extra").mkdir()
    with tf.io.TFRecordWriter(str(version_dir / "assets.extra" / "tf_serving_warmup_requests")) as writer:
        for log in logs:
            writer.write(log.SerializeToString())
