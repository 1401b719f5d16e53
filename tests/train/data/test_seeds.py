"""What is drawn follows from the seed and from where in training it is drawn, and nothing else."""

import pytest

from twinstream.train.data.seeds import order_rng, sample_rng, step_seed


@pytest.mark.parametrize(
    ("seed", "found"),
    [
        (step_seed(0, 0, 0, 0), -3226225171056353554),
        (step_seed(7, 3, 250, 1), -2435275092340167514),
        (int(order_rng(7, 3).integers(2**60)), 1124137151796448604),
        (int(sample_rng(7, 3, "Run/v_Run_g01_c01").integers(2**60)), 1061209725072282592),
    ],
)
def test_seeds_stay_what_they_were(seed: int, found: int) -> None:
    """With another formula a run that is resumed would not go on as it began."""
    assert seed == found


def test_the_random_choices_of_a_sample_depend_on_seed_epoch_and_key() -> None:
    draws = {
        sample_rng(*args).integers(2**60)
        for args in [(0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b")]
    }
    assert len(draws) == 4
    assert sample_rng(0, 0, "a").integers(2**60) == sample_rng(0, 0, "a").integers(2**60)


def test_a_step_has_another_seed_on_each_rank_and_in_each_epoch() -> None:
    origins = [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)]
    assert len({step_seed(*each) for each in origins}) == len(origins)
