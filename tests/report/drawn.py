"""What a reader finds in a figure, read back from what was drawn, and whether all of it lies within the picture."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text


def words(figure: Figure) -> str:
    """Everything that is written in a figure."""
    return " | ".join(text.get_text() for text in figure.findobj(Text) if text.get_text())


def bars(axes: Axes) -> list[tuple[float, float]]:
    """The middle and the height of each bar, from left to right."""
    return sorted((bar.get_x() + bar.get_width() / 2, bar.get_height()) for bar in axes.patches)


def tinted(axes: Axes, colour: str) -> np.ndarray:
    """The mask (H, W) bool that is drawn over a tile in this colour; empty where none is."""
    first, *others = (image.get_array() for image in axes.images)
    found = np.zeros(first.shape[:2], bool)
    for drawn in others:
        found |= (drawn[..., 3] > 0) & np.isclose(drawn[..., :3], to_rgb(colour)).all(axis=-1)
    return found


def assert_readable(figure: Figure) -> None:
    """No text is cut off, none is smaller than 8 points, and none lies over another."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    width, height = canvas.get_width_height()
    texts = set(figure.findobj(lambda one: isinstance(one, Text) and one.get_visible() and one.get_text().strip()))
    texts -= _beyond(figure)
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts]
    for text in texts:
        assert text.get_fontsize() >= 8, text
    for name, box in boxes:
        assert -1 <= box.x0 <= box.x1 <= width + 1, name
        assert -1 <= box.y0 <= box.y1 <= height + 1, name
    for number, (name, box) in enumerate(boxes):
        for other, beside in boxes[:number]:
            x = min(box.x1, beside.x1) - max(box.x0, beside.x0)
            y = min(box.y1, beside.y1) - max(box.y0, beside.y0)
            assert min(x, y) <= 1, (name, other)


def _beyond(figure: Figure) -> set[Text]:
    """Labels that are not drawn: of ticks beyond the ends of their axis, and of axes that are off."""
    found: set[Text] = set()
    for axes in figure.axes:
        if not axes.axison:
            found.update(axes.findobj(Text))
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            found.update(label for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high
                         for label in (tick.label1, tick.label2))  # fmt: skip
    return found
