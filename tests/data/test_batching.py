import random

import numpy as np
import pytest

from lightning_transfer.data import LengthBatchSampler


def realistic_lengths(count, seed=0):
    """Lengths distributed like the tokens of movie snippets (mean 27, to 79)."""
    random_state = np.random.default_rng(seed)
    return np.clip(random_state.gamma(4.7, 5.7, count).round(), 4, 79).astype(int)


LENGTHS = realistic_lengths(2000)


def padding_share(sampler):
    real = padded = 0
    for batch in sampler:
        lengths = sampler.lengths[batch]
        real, padded = real + lengths.sum(), padded + lengths.max() * len(batch)
    return 1 - real / padded


def flat(batches):
    return [row for batch in batches for row in batch]


def test_an_epoch_holds_every_row_once():
    batches = list(LengthBatchSampler(LENGTHS, 32, seed=0, shuffle=True))
    assert sorted(flat(batches)) == list(range(2000))
    assert sorted(map(len, batches)) == [16] + [32] * 62


def test_the_order_follows_from_seed_and_epoch():
    def order(seed, epoch):
        sampler = LengthBatchSampler(LENGTHS, 32, seed=seed, shuffle=True)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(0, 3) == order(0, 3)
    epochs = [order(0, epoch) for epoch in range(3)] + [order(1, 0)]
    for one in range(4):
        for other in range(one):
            assert epochs[one] != epochs[other]
            shared = {frozenset(batch) for batch in epochs[one]}
            assert len(shared & {frozenset(batch) for batch in epochs[other]}) <= 4


def test_batches_come_in_random_order_of_length():
    sampler = LengthBatchSampler(LENGTHS, 32, seed=0, shuffle=True)
    widths = [LENGTHS[batch].max() for batch in sampler]
    assert abs(np.corrcoef(widths, np.arange(len(widths)))[0, 1]) < 0.4


def test_padding_is_below_three_percent_on_realistic_lengths():
    lengths = realistic_lengths(7422)
    sampler = LengthBatchSampler(lengths, 32, seed=0, shuffle=True)
    shuffled = random.Random(0).sample(range(7422), 7422)
    plain = [shuffled[start : start + 32] for start in range(0, 7422, 32)]
    random_share = 1 - lengths.sum() / sum(lengths[rows].max() * len(rows) for rows in plain)
    assert padding_share(sampler) < 0.03
    assert random_share > 0.4


@pytest.mark.parametrize("world_size", [2, 3, 4])
@pytest.mark.parametrize("count", [1, 5, 64, 97, 1000])
@pytest.mark.parametrize("max_tokens", [None, 200])
def test_the_ranks_of_a_step_are_one_devices_global_batch(world_size, count, max_tokens):
    lengths = LENGTHS[:count]
    whole = max_tokens and max_tokens * world_size
    one = LengthBatchSampler(lengths, 8 * world_size, seed=1, shuffle=True)
    ranks = [
        LengthBatchSampler(
            lengths,
            8,
            seed=1,
            shuffle=True,
            rank=rank,
            world_size=world_size,
            max_tokens=max_tokens,
        )
        for rank in range(world_size)
    ]
    for sampler in (one, *ranks):
        sampler.set_epoch(2)
    batches = [list(sampler) for sampler in ranks]
    assert {len(own) for own in batches} == {len(ranks[0])}
    steps = [sorted(flat(step)) for step in zip(*batches, strict=True)]
    assert all(batch for own in batches for batch in own)
    if whole is None:
        assert [sorted(set(step)) for step in steps] == [sorted(batch) for batch in one]
    doubled = len(flat(steps)) - len(set(flat(steps)))
    assert set(flat(steps)) == set(range(count))
    assert doubled < world_size  # only where the last batch had fewer rows than ranks
    if count % (8 * world_size) >= world_size and whole is None:
        assert doubled == 0


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 7, 50])
def test_evaluation_sees_each_row_once_longest_first(world_size, count):
    lengths = LENGTHS[:count]
    ranks = [
        LengthBatchSampler(lengths, 8, seed=0, shuffle=False, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    batches = [list(sampler) for sampler in ranks]
    assert sorted(flat(flat(batches))) == list(range(count))
    assert [len(own) for own in batches] == [len(sampler) for sampler in ranks]
    assert max(map(len, batches)) - min(map(len, batches)) <= 1
    for own in batches:
        widths = [lengths[batch].max() for batch in own]
        assert widths == sorted(widths, reverse=True)


def test_nothing_is_computed_before_the_first_batch():
    sampler = LengthBatchSampler(LENGTHS, 32, seed=0, shuffle=True)
    early = iter(sampler)
    sampler.set_epoch(5)
    assert list(early) == list(sampler)


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_max_tokens_bounds_the_padded_batch(epoch):
    sampler = LengthBatchSampler(LENGTHS, 64, seed=0, shuffle=True, max_tokens=500)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert sorted(flat(batches)) == list(range(2000))
    assert max(LENGTHS[batch].max() * len(batch) for batch in batches) <= 500
    assert max(map(len, batches)) <= 64
    assert len(batches) == len(sampler)  # the same in each epoch, as Lightning asks once


def test_a_row_longer_than_max_tokens_has_its_own_batch():
    sampler = LengthBatchSampler([9, 2, 2], 4, seed=0, shuffle=False, max_tokens=4)
    assert list(sampler) == [[0], [1, 2]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be >= 1, got 0"),
        ({"max_tokens": 0}, "max_tokens must be >= 1, got 0"),
        ({"rank": 2, "world_size": 2}, r"rank must be in \[0, world_size=2\), got 2"),
    ],
)
def test_bad_values_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LengthBatchSampler([1], **{"batch_size": 1, "seed": 0, "shuffle": True, **arguments})
