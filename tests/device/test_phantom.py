import numpy as np
import pytest

from edgeward.device.phantom import phantom


def test_the_same_seed_gives_the_same_pixels():
    a, b = phantom(4, kind="malignant"), phantom(4, kind="malignant")

    assert np.array_equal(a.image, b.image)
    assert np.array_equal(a.mask, b.mask)
    assert a.spacing_mm == b.spacing_mm


def test_another_seed_gives_another_picture():
    assert not np.array_equal(phantom(1).image, phantom(2).image)


@pytest.mark.parametrize("kind", ["benign", "malignant"])
@pytest.mark.parametrize("size", [(480, 640), (200, 640), (700, 300), (96, 96)])
def test_a_lesion_lies_within_the_frame_and_is_darker_than_its_surroundings(kind, size):
    for seed in range(4):
        p = phantom(seed, *size, kind=kind)

        assert p.image.shape == p.mask.shape == size
        assert 0.002 < p.mask.mean() < 0.35
        assert not p.mask[[0, -1]].any()
        assert not p.mask[:, [0, -1]].any()
        rows = np.flatnonzero(p.mask.any(axis=1))
        beside = ~p.mask[rows[0] : rows[-1]]
        assert p.image[p.mask].mean() < p.image[rows[0] : rows[-1]][beside].mean() - 15


def test_benign_lesions_are_wider_than_tall_and_malignant_ones_taller():
    def aspect(kind, seed):
        rows, columns = np.nonzero(phantom(seed, kind=kind).mask)
        return np.ptp(columns) / np.ptp(rows)

    assert np.median([aspect("benign", s) for s in range(9)]) > 1.2
    assert np.median([aspect("malignant", s) for s in range(9)]) < 1.0


def test_a_normal_phantom_has_no_lesion():
    assert not phantom(5, kind="normal").mask.any()


def test_speckle_is_fully_developed():
    """Within even tissue the envelope fluctuates: it is not a smooth drawing."""
    image = phantom(3, kind="normal").image.astype(float)
    patch = image[150:200, 300:360]

    assert 4 < patch.std() < 60


@pytest.mark.parametrize(
    ("arguments", "reason"), [({"kind": "cyst"}, "kind"), ({"rows": 10}, "size"), ({"columns": 9000}, "size")]
)
def test_wrong_arguments_are_refused(arguments, reason):
    with pytest.raises(ValueError, match=reason):
        phantom(0, **arguments)
