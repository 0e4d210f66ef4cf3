"""Loss curves of a training job as a picture, which notebooks show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sostenuto._job_events import JobEvent

WIDTH, HEIGHT = 560, 240  # pixels
LEFT, RIGHT, TOP, BOTTOM = 48, 16, 24, 32  # margins
TRAINING, VALIDATION = "#1f77b4", "#d95f02"  # distinguishable for color-blind people


@dataclass(frozen=True, repr=False)
class LossCurve:
    """Training and validation loss of a job, in nats per token, over the tokens trained on.

    A notebook shows it as a picture; `svg` is the picture for a file.

    Attributes:
        events: tuple of JobEvent, in order.
    """

    events: tuple[JobEvent, ...]

    @property
    def svg(self) -> str:
        """The picture, with a line for each loss and a mark at the best epoch."""
        training = [(e.tokens, e.train_loss) for e in self.events if e.tokens is not None and e.train_loss is not None]
        epochs = [e for e in self.events if e.tokens is not None and e.validation_loss is not None]
        validation = [(e.tokens or 0, e.validation_loss or 0.0) for e in epochs]
        points = [*training, *validation]
        if not points:
            return _picture([f'<text x="{LEFT}" y="{HEIGHT // 2}">no losses yet</text>'])
        scale = _Scale(max(tokens for tokens, _ in points), [loss for _, loss in points])
        parts = [*scale.axes(), _line(scale, training, TRAINING), _line(scale, validation, VALIDATION)]
        best = next((e for e in reversed(epochs) if e.is_best), None)
        if best is not None:
            x, y = scale.place(best.tokens or 0, best.validation_loss or 0.0)
            mark = f"best: epoch {best.epoch}, {best.validation_loss:.3f}"
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{VALIDATION}"/>')
            parts.append(_text(WIDTH - RIGHT, 14, mark, VALIDATION, "end"))
        legend = [_text(LEFT, 14, "training loss", TRAINING), _text(LEFT + 96, 14, "validation loss", VALIDATION)]
        return _picture([*parts, *legend])

    def _repr_html_(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        return f"LossCurve({len(self.events)} events)"


class _Scale:
    """Places tokens and losses in the picture."""

    def __init__(self, max_tokens: int, losses: Sequence[float]) -> None:
        self._max_tokens = max(max_tokens, 1)
        self._lowest, self._highest = min(losses), max(losses)

    def place(self, tokens: int, loss: float) -> tuple[float, float]:
        """Return x and y in pixels."""
        span = (self._highest - self._lowest) or 1.0
        x = LEFT + (WIDTH - LEFT - RIGHT) * tokens / self._max_tokens
        return x, TOP + (HEIGHT - TOP - BOTTOM) * (self._highest - loss) / span

    def axes(self) -> list[str]:
        """Return both axes with the ends of their ranges."""
        bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
        path = f"M{LEFT},{TOP}V{bottom}H{right}"
        return [
            f'<path d="{path}" fill="none" stroke="currentColor" stroke-opacity="0.4"/>',
            _text(LEFT - 6, TOP + 10, f"{self._highest:.2f}", anchor="end"),
            _text(LEFT - 6, bottom, f"{self._lowest:.2f}", anchor="end"),
            _text(right, HEIGHT - 12, f"{self._max_tokens:,} tokens", anchor="end"),
            _text(LEFT, HEIGHT - 12, "nats per token"),
        ]


def _line(scale: _Scale, points: Sequence[tuple[int, float]], color: str) -> str:
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in (scale.place(*point) for point in points))
    return f'<polyline points="{places}" fill="none" stroke="{color}" stroke-width="2"/>'


def _text(x: float, y: float, text: str, color: str = "currentColor", anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y}" fill="{color}" text-anchor="{anchor}">{escape(text)}</text>'


def _picture(parts: Sequence[str]) -> str:
    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    style = 'font-family="sans-serif" font-size="12" fill="currentColor"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {size} {style}>{"".join(parts)}</svg>'
