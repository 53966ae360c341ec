"""What the tests of figures share: what is written in one, and that nothing of it is cut off."""

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text


def words(figure: Figure) -> str:
    """Everything that is written in a figure."""
    return " | ".join(text.get_text() for text in figure.findobj(Text) if text.get_text())


def assert_nothing_is_cut_off(figure: Figure) -> None:
    """Titles, labels of axes and ticks, numbers in the picture, and the legend lie inside the figure."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    width, height = canvas.get_width_height()
    texts = [label for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for label in axis.get_ticklabels()
             if _in_view(axis, label)]  # fmt: skip
    for axes in figure.axes:
        texts += [axes._left_title, axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
    texts = [text for text in texts if text.get_text()]
    assert texts
    for artist in (*texts, *figure.legends):
        box = artist.get_window_extent()
        assert box.x0 >= 0, artist
        assert box.y0 >= 0, artist
        assert box.x1 <= width, artist
        assert box.y1 <= height, artist


def _in_view(axis, label) -> bool:
    low, high = sorted(axis.get_view_interval())
    place = label.get_position()[0 if axis.axis_name == "x" else 1]
    return low <= place <= high
