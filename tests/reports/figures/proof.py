"""What holds of every figure: it can be rendered, shows data, and has a caption that is a sentence."""

from io import BytesIO

from reports.draw.style import theme


def check_rendered(module, frame):
    """Draw a frame by its figure's module, as pixels too, and see that data are shown."""
    with theme():
        figure = module.draw(frame)
        figure.savefig(BytesIO(), format="png", dpi=30)
    assert any(axes.has_data() for axes in figure.axes)


def checked_caption(module, frame):
    """The caption of a frame, which ends as a sentence does and has no number that is none."""
    sentence = module.caption(frame)
    assert sentence.endswith(".")
    assert "nan" not in sentence
    return sentence
