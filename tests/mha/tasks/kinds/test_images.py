"""Images: classes and outputs, beside those of one image at a time."""

import numpy as np
import pytest
import torch
from PIL import Image

from mha.tasks import read_task
from mha.values.errors import TaskError
from tests.mha.support.task_files import check_scoring, model
from tests.mha.support.task_images import PixelsOnly

NAMES = {0: "cat", 1: "dog"}


@pytest.fixture
def classifier():
    return model("vit", "AutoModelForImageClassification", num_labels=2, id2label=NAMES)


@pytest.fixture
def processor():
    return PixelsOnly()


def pictures(folder, seed, counts):
    """So many random images of each class, in a folder for each class."""
    generator = np.random.default_rng(seed)
    made = []
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
            made.append((name, pixels))
    return made


@pytest.fixture
def folder(tmp_path):
    """A task's folder with images, and what is in its evaluation part."""
    pictures(tmp_path / "train", 1, {"cat": 3, "dog": 2})
    return tmp_path, pictures(tmp_path / "test", 2, {"cat": 5, "dog": 6})


def write(folder, kind, top=""):
    data = '[data]\ncalibration = "train"\nevaluation = "test"'
    (folder / "task.toml").write_text(f'kind = "{kind}"\n{top}\n{data}\n')
    return folder / "task.toml"


def alone(classifier, pixels):
    with torch.no_grad():
        return classifier(pixel_values=torch.tensor(pixels).permute(2, 0, 1)[None].double() / 255).logits[0]


def test_accuracy(folder, classifier, processor):
    task = read_task(write(folder[0], "image-classification", "batch_size = 4"), classifier, processor)
    expected = [float(NAMES[int(alone(classifier, pixels).argmax())] == name) for name, pixels in folder[1]]
    assert 0 < sum(expected) < 11
    assert sorted(task.evaluate(classifier).tolist()) == sorted(expected)
    assert task.chance == 6 / 11
    assert task.example(3)[1]["pixel_values"].shape == (3, 3, 16, 16)
    check_scoring(task)


def test_pixels_are_given_in_the_models_dtype(folder, classifier, processor):
    task = read_task(write(folder[0], "image-classification"), classifier.bfloat16(), processor)
    model = task.model()
    assert (
        task.example(2)[1]["pixel_values"].dtype == task.forward(model, task.calibration()[0]).dtype == torch.bfloat16
    )
    assert model(**task.example(2)[1]).logits.shape == (2, 2)


def test_distances_of_outputs(folder, classifier, processor):
    task = read_task(write(folder[0], "image-outputs"), classifier, processor)
    other = model("vit", "AutoModelForImageClassification", num_labels=2, id2label=NAMES, hidden_act="relu")
    expected = []
    for _, pixels in folder[1]:
        ours, dense = (alone(one, pixels).log_softmax(-1) for one in (other, classifier))
        expected.append(float((dense.exp() * (dense - ours)).sum()))
    assert task.metric == "divergence"
    assert sorted(task.evaluate(other).tolist()) == pytest.approx(sorted(expected))
    assert task.evaluate(task.model()).tolist() == pytest.approx([0] * 11, abs=1e-12)


def test_the_same_image_in_both_parts(folder, classifier, processor):
    (folder[0] / "test" / "cat" / "3.png").rename(folder[0] / "train" / "dog" / "3.png")
    pixels = Image.open(folder[0] / "train" / "dog" / "3.png")
    pixels.save(folder[0] / "test" / "dog" / "other.bmp")
    with pytest.raises(
        TaskError,
        match=r'1 of the 6 rows of calibration are copies, or nearly, of others \(row 6 of train \("3.png"\) is',
    ):
        read_task(write(folder[0], "image-classification"), classifier, processor)


def test_no_image_processor(folder, classifier):
    with pytest.raises(TaskError, match="image-classification needs the model's image processor, got none; give it as"):
        read_task(write(folder[0], "image-classification"), classifier)
