"""An image processor that changes nothing: pixels as float64 between 0 and 1."""

import numpy as np
import torch

from tests.mha.support.task_files import transformers


class PixelsOnly(transformers.image_processing_utils.BaseImageProcessor):
    """Pixels (1, channel, height, width) of one image."""

    image_mean = (0.5,)

    def __call__(self, images, return_tensors):
        assert return_tensors == "pt"
        pixels = torch.tensor(np.array(images)).permute(2, 0, 1).double() / 255
        return transformers.BatchFeature({"pixel_values": pixels[None]})
