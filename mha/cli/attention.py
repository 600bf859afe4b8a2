"""`mha attention`: what each head attends to in a text, as a picture or a page."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import numpy as np
import torch
from torch import Tensor, nn

from mha.cli.models import Loaded, read_model
from mha.cli.settings import Settings, with_settings
from mha.families import find_attention
from mha.pruning.masking import eval_mode
from mha.values.atomic_files import appears_whole
from mha.values.errors import CalibrationError
from mha.values.optional_packages import needed
from mha.values.whole_directory import check_new
from mha.visualize import restore_heads, show_attention

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES = (".png", ".svg", ".pdf")


class Drawn(NamedTuple):
    """The attention of one model to a text.

    Attributes:
        title: what the model is called.
        layers: layer -> weights (1, original heads, q, k); NaN for heads that it does not have.
        tokens: the text of each token.
    """

    title: str
    layers: dict[str, Tensor]
    tokens: list[str]


@click.command(short_help="Draw what each head attends to in a text.")
@click.argument("model")
@click.option("--text", required=True, help="What the model reads.")
@click.option("--beside", metavar="DIR", help="A smaller model, drawn too: a directory that mha prune wrote.")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="heads.html, or a picture: .png, .svg, .pdf."
)
@with_settings
def attention(model: str, text: str, beside: str | None, output: Path, settings: Settings) -> None:
    """Draw what each head of MODEL attends to in a text; for a model with a decoder of its own, its encoder's heads.

    A page (.html) has all layers × heads at a glance, and each layer with the tokens on its axes; a picture has the
    former.

    \b
    Examples:
      mha attention my-model --text "the cat sat on the mat" -o heads.html
      mha attention my-model --text "the cat sat on the mat" --beside smaller -o both.png
    """
    if output.suffix not in (".html", *PICTURES):
        raise click.UsageError(f"-o {output}: its end says what is written; give .html, {', '.join(PICTURES)}")
    check_new(output)
    needed("matplotlib", "plot", "to draw heads")
    dense = read_model(model, settings)
    tokenizer = dense.tokenizer
    drawn = [read_attention(dense, tokenizer, text)]
    if beside is not None:
        drawn.append(read_attention(read_model(beside, settings), tokenizer, text))
    with appears_whole(output) as partial:
        if output.suffix == ".html":
            partial.write_text(page(text, drawn), encoding="utf-8")
        else:
            at_a_glance(drawn).savefig(partial, format=output.suffix[1:])
    document = {
        "output": str(output),
        "tokens": drawn[0].tokens,
        "models": [{"model": one.title, "layers": list(one.layers)} for one in drawn],
    }
    settings.tell(f"Written to {output}: {len(drawn[0].layers)} layers, {len(drawn[0].tokens)} tokens.", document)


def read_attention(loaded: Loaded, tokenizer: Any, text: str) -> Drawn:
    """The model's attention weights while it reads the text.

    Raises:
        CalibrationError: the text has no token, or more than the model takes, or the model returns no weights.
    """
    model: Any = loaded.model
    encoded = tokenizer(text, return_tensors="pt")
    longest = getattr(model.config, "max_position_embeddings", None)
    count = encoded["input_ids"].shape[-1]
    if not count or (isinstance(longest, int) and count > longest):
        raise CalibrationError(f"the text has {count} tokens; {loaded.text} takes 1 to {longest or 'many'}: shorten it")
    weights = _weights(model, encoded["input_ids"].to(loaded.device))
    names = _layers_of(model, weights)
    with_places = restore_heads(loaded.model, weights, names, fill=float("nan"))
    tokens = [str(token) for token in tokenizer.convert_ids_to_tokens(encoded["input_ids"][0].tolist())]
    return Drawn(loaded.text, dict(zip(names, with_places, strict=True)), tokens)


def _weights(model: Any, ids: Tensor) -> list[Tensor]:
    """The weights of each layer that attends to its own input, (1, h, q, k), of the encoder where there are two.

    Raises:
        CalibrationError: the model returns none.
    """
    part = model.get_encoder() if getattr(model.config, "is_encoder_decoder", False) else model
    before = getattr(model.config, "_attn_implementation", None)
    model.set_attn_implementation("eager")  # fused attention has no weights to return
    try:
        with eval_mode(model), torch.inference_mode():
            output = part(input_ids=ids, output_attentions=True)
    finally:
        if before is not None:
            model.set_attn_implementation(before)
    weights = getattr(output, "attentions", None)
    if not weights:
        raise CalibrationError(f"a {type(model).__name__} returns no attention weights")
    return list(weights)


def _layers_of(model: nn.Module, weights: Sequence[Tensor | None]) -> list[str]:
    """The names of the layers that these weights are of, in order."""
    found = find_attention(model)
    names = [name for name, layer in found.items() if layer.role != "cross"]
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        names = [name for name in names if "encoder" in name.split(".")]
    with_heads = [name for name in names if found[name].num_heads]
    if len(weights) not in (len(names), len(with_heads)):
        raise CalibrationError(f"the model returns the weights of {len(weights)} layers, and has {len(names)}")
    return names


def at_a_glance(drawn: Sequence[Drawn]) -> "Figure":
    """All layers × heads as small heatmaps, a row for each layer, models below one another; one scale, from 0 to 1."""
    from matplotlib.figure import Figure

    rows = [(one.title, name, weights[0]) for one in drawn for name, weights in one.layers.items()]
    columns = max(len(weights) for _, _, weights in rows)
    height, width = (size + 1 for size in rows[0][2].shape[-2:])  # a line between one heatmap and the next
    tiles = np.full((len(rows) * height - 1, columns * width - 1), np.nan)
    for row, (_, _, weights) in enumerate(rows):
        for head, of_head in enumerate(weights.float().cpu().numpy()):
            tiles[row * height : (row + 1) * height - 1, head * width : (head + 1) * width - 1] = of_head
    figure = Figure(figsize=(0.8 * columns + 3.0, 0.8 * len(rows) + 0.8), layout="constrained")
    axes = figure.add_subplot(facecolor="0.9")
    axes.imshow(tiles, vmin=0.0, vmax=1.0, cmap="viridis", aspect="auto", interpolation="nearest")
    axes.set_xticks([(head + 0.5) * width - 1 for head in range(columns)], [f"head {head}" for head in range(columns)])
    labels = [_label(drawn, title, name) for title, name, _ in rows]
    axes.set_yticks([(row + 0.5) * height - 1 for row in range(len(rows))], labels)
    axes.tick_params(length=0, labelsize="x-small", labeltop=True, labelbottom=False)
    return figure


def page(text: str, drawn: Sequence[Drawn]) -> str:
    """A page with all layers × heads at a glance, and each layer with the tokens on the axes."""
    parts = [f"<h1>{html.escape(text)}</h1>", "<h2>All layers × heads</h2>", _image(at_a_glance(drawn))]
    for one in drawn:
        for name, weights in one.layers.items():
            kept = [head for head, of_head in enumerate(weights[0]) if not of_head.isnan().any()]
            parts.append(f"<h2>{html.escape(_label(drawn, one.title, name))}</h2>")
            if not kept:
                parts.append("<p>This layer has no head.</p>")
                continue
            figure = show_attention(weights[:, kept], heads=kept, queries=one.tokens, keys=one.tokens)
            parts.append(_image(figure))
    style = "body{font-family:sans-serif;margin:2em}img{max-width:100%;height:auto}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><title>Attention</title>'
        f"<style>{style}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _label(drawn: Sequence[Drawn], title: str, name: str) -> str:
    """What a layer is called: by its name, and of several models with the model's title in front."""
    return f"{title}: {name}" if len(drawn) > 1 else name or "(root)"


def _image(figure: "Figure") -> str:
    """The figure as an element of a page, the picture within it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80)
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
