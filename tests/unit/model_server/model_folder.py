"""A folder of models, as an exporter fills it."""

import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import tensorflow as tf
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog, PredictLog


class Models:
    """The folder that `/models` of the config stands for."""

    def __init__(self, root: Path, saved_model: Callable[..., Path]) -> None:
        self.root = root
        self._saved_model = saved_model

    def draft(self, version: int | str, weight: float = 2.0, *, name: str = "tiny", echoes: bool = False) -> Path:
        """Write a version beside its place, as an exporter does."""
        path = self.root / name / f".{version}.tmp"
        shutil.copytree(self._saved_model(weight, echoes=echoes), path)
        return path

    def finish(self, draft: Path) -> Path:
        """Rename a draft into its place."""
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
        """Put a version in its place."""
        draft = self.draft(version, weight, name=name, echoes=echoes)
        if warmup:
            write_warmup(draft, [PredictionLog(predict_log=PredictLog(request=request)) for request in warmup])
        return self.finish(draft)

    def configure(self, *entries: str) -> Path:
        """Write models.config beside the models, for `tiny` alone unless given otherwise."""
        path = self.root / "models.config"
        path.with_suffix(".new").write_text(self.config(*entries or [self.entry()]))
        return path.with_suffix(".new").rename(path)

    @staticmethod
    def config(*entries: str) -> str:
        """Return a config of these models."""
        return f"model_config_list {{ {' '.join(entries)} }}"

    @staticmethod
    def entry(name: str = "tiny", *, versions: Iterable[int] = (), extra: str = "", **labels: int) -> str:
        """Return one model of a config: the latest version or these, and version numbers of labels."""
        listed = " ".join(f"versions: {version}" for version in versions)
        policy = f"model_version_policy {{ specific {{ {listed} }} }}" if listed else ""
        named = " ".join(f'version_labels {{ key: "{key}" value: {value} }}' for key, value in labels.items())
        fields = f'name: "{name}" base_path: "/models/{name}" model_platform: "tensorflow"'
        return f"config {{ {fields} {policy} {named} {extra} }}"


def write_warmup(version_dir: Path, logs: Iterable[PredictionLog]) -> None:
    """Write a warm-up file."""
    (version_dir / "assets.extra").mkdir()
    with tf.io.TFRecordWriter(str(version_dir / "assets.extra" / "tf_serving_warmup_requests")) as writer:
        for log in logs:
            writer.write(log.SerializeToString())
