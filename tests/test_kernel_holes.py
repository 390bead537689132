"""The holes: masks, geometry and the harmonic fill, against independent computations."""

import itertools

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg

RNG = np.random.default_rng(7)
PHOTO = RNG.random((256, 256, 3)).astype(np.float32)

PLACES = {
    "apart": [(20, 30), (150, 160)],
    "at the top edge": [(0, 90), (120, 10)],
    "at the left edge": [(60, 0), (60, 130)],
    "in the corners": [(0, 0), (181, 181)],
    "one pixel from the edge": [(1, 1), (180, 180)],
    "overlapping": [(50, 60), (90, 100)],
    "overlapping at an edge": [(0, 50), (30, 80)],
    "overlapping in a corner": [(181, 150), (150, 181)],
    "one row in common": [(40, 40), (114, 40)],
    "side by side": [(40, 40), (40, 115)],
    "one pixel apart": [(40, 40), (40, 116)],
    "corner to corner": [(40, 40), (115, 115)],
    "the same place": [(70, 80), (70, 80)],
    "across": [(40, 60), (60, 40)],
}


def mask_of(boxes):
    mask = np.zeros((256, 256), bool)
    for top, left in boxes:
        mask[top : top + 75, left : left + 75] = True
    return mask


def solve_directly(photo, mask):
    """Laplace's equation on the masked pixels with a reflecting image edge, by a sparse solver."""
    number = -np.ones(mask.shape, int)
    ys, xs = np.nonzero(mask)
    number[ys, xs] = np.arange(len(ys))
    rows, columns, weights, right = [], [], [], np.zeros((len(ys), 3))
    degree = np.zeros(len(ys))
    for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        y, x = ys + dy, xs + dx
        there = (y >= 0) & (y < 256) & (x >= 0) & (x < 256)
        degree += there
        other = np.where(there, number[np.clip(y, 0, 255), np.clip(x, 0, 255)], -1)
        inside = there & (other >= 0)
        rows += [np.flatnonzero(inside)]
        columns += [other[inside]]
        weights += [-np.ones(inside.sum())]
        known = there & (other < 0)
        right[known] += photo[y[known], x[known]]
    rows += [np.arange(len(ys))]
    columns += [np.arange(len(ys))]
    weights += [degree]
    matrix = scipy.sparse.csc_matrix(
        (np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns)))
    )
    filled = photo.astype(np.float64).copy()
    filled[ys, xs] = scipy.sparse.linalg.splu(matrix).solve(right)
    return filled


@pytest.mark.parametrize("place", PLACES)
def test_the_harmonic_fill_solves_laplaces_equation(pix2pix, place):
    boxes = np.array(PLACES[place], np.int32)
    mask = mask_of(boxes)
    masked = np.where(mask[..., None], 9.0, PHOTO).astype(np.float32)  # holes hold rubbish
    filled = pix2pix.harmonic_fill(masked[None], boxes[None])[0].numpy()
    assert np.abs(filled - solve_directly(PHOTO, mask)).max() <= 1e-4
    assert np.array_equal(filled[~mask], PHOTO[~mask])


def test_a_batch_is_filled_as_its_pictures_one_by_one(pix2pix):
    boxes = np.array([PLACES["apart"], PLACES["across"], PLACES["at the left edge"]], np.int32)
    images = RNG.random((3, 256, 256, 3)).astype(np.float32)
    whole = pix2pix.harmonic_fill(images, boxes).numpy()
    for i in range(3):
        alone = pix2pix.harmonic_fill(images[i : i + 1], boxes[i : i + 1])[0].numpy()
        assert np.abs(alone - whole[i]).max() < 1e-5


@pytest.mark.parametrize("place", PLACES)
def test_a_mask_is_one_exactly_in_the_boxes(pix2pix, place):
    boxes = np.array(PLACES[place], np.int32)
    mask = pix2pix.hole_mask(boxes[None])[0, ..., 0].numpy()
    assert np.array_equal(mask.astype(bool), mask_of(boxes))


def test_pasting_what_was_cropped_changes_nothing(pix2pix):
    boxes = np.array([PLACES["across"]], np.int32)
    holes = pix2pix.crop_holes(PHOTO, boxes[0])[None]
    assert holes.shape == (1, 2, 75, 75, 3)
    assert np.array_equal(holes[0, 1], PHOTO[60:135, 40:115])
    assert np.array_equal(pix2pix.paste_holes(PHOTO[None], boxes, holes)[0], PHOTO)


def test_drawn_holes_lie_inside_reach_every_edge_and_repeat_with_their_seed(pix2pix):
    boxes = np.stack([pix2pix.draw_boxes(np.random.default_rng(i)) for i in range(1000)])
    assert boxes.shape == (1000, 2, 2)
    assert (boxes.min(), boxes.max()) == (0, 181)
    assert np.array_equal(boxes[3], pix2pix.draw_boxes(np.random.default_rng(3)))
    assert abs(boxes.mean() - 90.5) < 4


@pytest.mark.parametrize("symmetry", [(t, r, c) for t in (0, 1) for r in (0, 1) for c in (0, 1)])
def test_a_symmetry_turns_picture_and_boxes_together(pix2pix, symmetry):
    boxes = np.array([PLACES["at the top edge"]], np.int32)
    marked = np.where(mask_of(boxes[0])[..., None], 0, PHOTO)
    turned, moved = pix2pix.apply_symmetry(marked[None], boxes, np.array([symmetry], bool))
    expected = marked
    if symmetry[0]:
        expected = expected.transpose(1, 0, 2)
    if symmetry[1]:
        expected = expected[::-1]
    if symmetry[2]:
        expected = expected[:, ::-1]
    assert np.array_equal(turned[0], expected)
    assert np.array_equal(mask_of(moved[0].numpy()), (expected == 0).all(-1))


def test_the_five_copies_are_the_image_its_rotations_and_its_mirror_image(pix2pix):
    symmetries = np.array(pix2pix.SYMMETRIES["five"], bool)
    boxes = np.zeros((5, 2, 2), np.int32)
    turned, _ = pix2pix.apply_symmetry(np.repeat(PHOTO[None], 5, 0), boxes, symmetries)
    for k in range(4):
        assert np.array_equal(turned[k], np.rot90(PHOTO, k))
    assert np.array_equal(turned[4], PHOTO[:, ::-1])


@pytest.mark.parametrize("place", [(0, 0), (1, 1), (0.3, 0.9)])
def test_jitter_moves_a_hole_with_its_picture_and_keeps_its_size(pix2pix, place):
    boxes = np.array([[(60, 70), (100, 90)]], np.int32)
    rows, columns = np.mgrid[0:256, 0:256].astype(np.float32)
    chart = np.stack([rows, columns, rows], -1)[None]  # each pixel holds its own coordinates
    enlarged, moved = pix2pix.jittered(chart, boxes, 286, np.array([place], np.float32))
    assert enlarged.shape == chart.shape
    for (top, left), (new_top, new_left) in zip(boxes[0], moved[0].numpy(), strict=True):
        centre = enlarged[0, new_top + 37, new_left + 37].numpy()
        assert np.abs(centre[:2] - (top + 37, left + 37)).max() < 1


def test_jitter_without_enlargement_is_not_applied(pix2pix):
    config = pix2pix.make_config({"jitter": 256, "flip": False, "noise": 0.0})
    photo = (PHOTO[None] * 255).astype(np.uint8)
    boxes = np.array([PLACES["apart"]], np.int32)
    drawn = {"photo": photo, "boxes": boxes, "symmetry": np.zeros((1, 3), bool)}
    seen, _, target = pix2pix.training_example(config, drawn)
    assert np.allclose(target[0], photo[0] / 127.5 - 1, atol=1e-6)
    assert np.all(seen[0].numpy()[mask_of(boxes[0])] == -1)


def example_of_photo(pix2pix, settings, **drawn):
    """Inputs, masks and targets of one photo, as often as there are symmetries drawn."""
    config = pix2pix.make_config({"noise": 0.0} | settings)
    count = len(drawn["symmetry"])
    photo = np.repeat((PHOTO[None] * 255).astype(np.uint8), count, 0)
    boxes = np.repeat(np.array([PLACES["at the top edge"]], np.int32), count, 0)
    return pix2pix.training_example(config, {"photo": photo, "boxes": boxes} | drawn)


def test_a_mirrored_example_is_the_mirror_image_of_one_that_is_not(pix2pix):
    symmetry = np.array(pix2pix.SYMMETRIES["eight"], bool)
    plain, mirrored = (
        example_of_photo(
            pix2pix, {"flip": True, "jitter": 256}, symmetry=symmetry, mirror=np.full(8, mirror)
        )
        for mirror in (False, True)
    )
    for as_it_is, turned in zip(plain, mirrored, strict=True):
        assert np.array_equal(turned.numpy(), as_it_is.numpy()[:, :, ::-1])


def test_an_example_is_enlarged_and_cropped_at_the_drawn_corner(pix2pix):
    corner = np.array([(0.0, 1.0), (0.3, 0.8), (0.5, 0.5)], np.float32)
    still = {"symmetry": np.zeros((3, 3), bool), "corner": corner}
    whole = example_of_photo(pix2pix, {"flip": False, "jitter": 256}, **still)
    seen, mask, target = example_of_photo(pix2pix, {"flip": False, "jitter": 286}, **still)
    boxes = np.array([PLACES["at the top edge"]] * 3, np.int32)
    enlarged, moved = pix2pix.jittered(whole[2], boxes, 286, corner)
    assert np.abs(target - enlarged).max() < 1e-5
    for holes, expected in zip(mask.numpy()[..., 0], moved.numpy(), strict=True):
        assert np.array_equal(holes == 1, mask_of(expected))
    assert np.abs(seen - (enlarged * (1 - mask) - mask)).max() < 1e-5
    assert np.abs(target - whole[2]).max() > 0.1


@pytest.mark.parametrize(("pairs", "least", "most"), [(2, 200, 200), (3, 120, 160)])
def test_pairs_of_holes_lie_apart_or_stand_again_and_are_filled_exactly(
    pix2pix, pairs, least, most
):
    drawn = [pix2pix.draw_boxes(np.random.default_rng(i), pairs) for i in range(200)]
    fewer = []
    for boxes in drawn:
        kept = list(dict.fromkeys(tuple(map(tuple, pair)) for pair in boxes.reshape(-1, 2, 2)))
        if len(kept) < pairs:
            fewer.append(boxes)
        for one, other in itertools.combinations(np.array(kept), 2):
            assert np.abs(one[:, None] - other).max(-1).min() > 75
    assert least <= len(drawn) - len(fewer) <= most
    for boxes in [*drawn[:3], *fewer[:2]]:
        filled = pix2pix.harmonic_fill(PHOTO[None], boxes[None])[0].numpy()
        assert np.abs(filled - solve_directly(PHOTO, mask_of(boxes))).max() < 1e-4


def test_the_first_pair_may_overlap_as_often_as_the_tests_holes(pix2pix):
    drawn = np.stack([pix2pix.draw_boxes(np.random.default_rng(i), 3) for i in range(400)])
    overlap = (np.abs(drawn[:, 0] - drawn[:, 1]) < 75).all(-1).mean()
    assert overlap == pytest.approx(0.43, abs=0.07)  # 0.654 squared, for places from 0 to 181
