"""Examples that are judged by and were calibrated on: found by content, whatever stands beside them."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from mha import CalibrationError
from mha.certifying.overlap import check_apart


class Rows(NamedTuple):
    images: Tensor
    questions: Tensor


def tokens(rows, width, **extras):
    """Token ids (b, width), padded by 0 on the right, and the mask of what is no padding."""
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    mask = torch.zeros(len(rows), width, dtype=torch.int64)
    for number, row in enumerate(rows):
        ids[number, : len(row)], mask[number, : len(row)] = torch.tensor(row), 1
    return {"input_ids": ids, "attention_mask": mask, **extras}


def test_the_same_texts_are_found_under_another_padding_and_another_number_of_bytes():
    judged = [tokens([(5, 6, 7), (8, 9)], 3), tokens([(1, 2), (3,)], 4, labels=torch.tensor([0, 1]))]
    calibration = [tokens([(4, 4), (3,)], 7)]
    calibration[0]["input_ids"] = calibration[0]["input_ids"].int()
    with pytest.raises(CalibrationError, match=r"1 of the 4 examples .* \(examples 3\).*divide the data first"):
        check_apart(judged, calibration)


def test_what_padding_hides_makes_no_other_example():
    judged, calibration = tokens([(5, 6)], 4), tokens([(5, 6)], 4)
    judged["input_ids"][0, 3] = 77
    with pytest.raises(CalibrationError, match="1 of the 1 examples"):
        check_apart([judged], [calibration])


def test_a_mask_in_a_named_tuple_is_one_too():
    class Texts(NamedTuple):
        input_ids: Tensor
        attention_mask: Tensor

    judged, calibration = Texts(**tokens([(5, 6), (1, 2, 3)], 4)), Texts(**tokens([(1, 2, 3)], 9))
    with pytest.raises(CalibrationError, match=r"1 of the 2 examples .* \(examples 1\)"):
        check_apart([judged], [calibration])


def test_texts_of_which_one_begins_the_other_are_two():
    check_apart([tokens([(5, 6, 0)], 4)], [tokens([(5, 6)], 4)])


def test_the_largest_tensor_counts_and_labels_do_not():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(7, 3, 5, generator=generator)
    judged = [Rows(images[:5], torch.zeros(5, 2))]
    check_apart(judged, [Rows(images[5:], torch.zeros(2, 2))])
    with pytest.raises(CalibrationError, match=r"2 of the 5 examples .* \(examples 1, 3\)"):
        check_apart(judged, [Rows(images[[6, 3, 1]], torch.ones(3, 2))])


def test_half_precision_is_read_and_many_examples_are_counted():
    images = torch.arange(22.0).reshape(11, 2).bfloat16()
    with pytest.raises(CalibrationError, match=r"11 of the 11 examples .* \(examples 0, 1, 2, 3, 4, …\)"):
        check_apart([(images, torch.arange(11))], [images])


def test_batches_without_tensors_say_nothing():
    check_apart([["a text"]], [["a text"]])
