import random

import numpy as np
import pytest

from lightning_transfer.checkpoints.loading import load_tokenizer
from lightning_transfer.data import LengthBatchSampler, MovieSnippets


def realistic_lengths(count, seed=0):
    """Return lengths distributed like the tokens of movie snippets (mean 27, maximum 79)."""
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


def test_an_epoch_contains_every_row_once():
    batches = list(LengthBatchSampler(LENGTHS, 32, seed=0, shuffle=True))
    assert sorted(flat(batches)) == list(range(2000))
    assert sorted(map(len, batches)) == [16] + [32] * 62


def test_the_order_depends_on_seed_and_epoch():
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


def epochs_of(sampler, count):
    """Yield for each epoch the number of each row's batch, and the batches."""
    for epoch in range(count):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        numbers = np.empty(len(sampler.lengths), dtype=int)
        for number, batch in enumerate(batches):
            numbers[batch] = number
        yield numbers, batches


@pytest.mark.parametrize("options", [{"batch_size": 8}, {"batch_size": 64, "max_tokens": 250}])
def test_the_position_of_a_row_in_an_epoch_does_not_depend_on_its_length(options):
    sampler = LengthBatchSampler(LENGTHS[:128], seed=0, shuffle=True, **options)
    epochs = list(epochs_of(sampler, 400))
    places = np.array([numbers for numbers, _ in epochs]) / (len(sampler) - 1)  # (epoch, row)
    # A uniform position has the standard deviation 1 / sqrt(12), its mean over 400 epochs 0.0144.
    assert np.abs(places.mean(0) - 0.5).max() < 5 * 0.0145
    assert places.std(0).min() > 0.25
    widths = [[LENGTHS[batch].max() for batch in batches] for _, batches in epochs]
    order = [np.corrcoef(row, np.arange(len(row)))[0, 1] for row in widths]
    assert abs(np.mean(order)) < 5 / np.sqrt(400 * len(sampler))
    assert np.std(order) == pytest.approx(1 / np.sqrt(len(sampler) - 1), rel=0.25)


def test_rows_of_similar_length_share_some_batches():
    lengths, count = LENGTHS[:128], 300
    sampler = LengthBatchSampler(lengths, 8, seed=0, shuffle=True)
    epochs = [numbers for numbers, _ in epochs_of(sampler, count)]
    together = np.array([numbers[:, None] == numbers for numbers in epochs])  # (epoch, row, row)
    together[:, range(128), range(128)] = False
    # Few rows are as long as the longest or as short as the shortest, so those are left out.
    usual = (lengths > 15) & (lengths < 40)
    like = (np.abs(lengths[:, None] - lengths) <= 1) & ~np.eye(128, dtype=bool) & usual
    shares = together.mean(0)[like]
    assert shares.min() > 0.1
    assert shares.max() < 0.7
    # Most rows of a batch are in other batches in the next epoch.
    again = (together[1:] & together[:-1]).sum(axis=(0, 2)) / together[1:].sum(axis=(0, 2))
    assert again[usual].mean() < 0.35
    assert again.mean() < 0.45


def test_rows_of_equal_length_share_batches_equally_often():
    sampler = LengthBatchSampler(np.repeat([10, 30], 64), 8, seed=0, shuffle=True)
    meetings = np.zeros((128, 128))
    for numbers, _ in epochs_of(sampler, 500):
        meetings += numbers[:, None] == numbers
    for group in (slice(0, 64), slice(64, 128)):
        pairs = meetings[group, group][np.triu_indices(64, 1)]
        assert pairs.mean() == pytest.approx(500 * 7 / 63, rel=0.01)
        # The standard deviation is that of independent random draws.
        assert pairs.std() == pytest.approx(np.sqrt(500 * 7 / 63 * 56 / 63), rel=0.1)


@pytest.mark.parametrize(("count", "limit"), [(2048, 0.03), (7422, 0.015), (25_000, 0.01)])
def test_padding_is_below_three_percent_on_realistic_lengths(count, limit):
    lengths = realistic_lengths(count)
    sampler = LengthBatchSampler(lengths, 32, seed=0, shuffle=True)
    shuffled = random.Random(0).sample(range(count), count)
    plain = [shuffled[start : start + 32] for start in range(0, count, 32)]
    random_share = 1 - lengths.sum() / sum(lengths[rows].max() * len(rows) for rows in plain)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        assert padding_share(sampler) < limit
    assert random_share > 0.4


@pytest.mark.network
@pytest.mark.parametrize("seed", range(4))
def test_padding_is_below_three_percent_on_movie_snippets(seed):
    data = MovieSnippets(train_size=2048, batch_size=32)
    data.tokenizer = load_tokenizer("asset:minilm")
    data.seed = seed
    data.setup("fit")
    sampler = data.train_dataloader().batch_sampler
    for epoch in range(10):
        sampler.set_epoch(epoch)
        assert padding_share(sampler) < 0.03


def test_padding_of_a_small_set_is_close_to_that_of_sorted_rows():
    lengths = LENGTHS[:128]
    drawn = LengthBatchSampler(lengths, 8, seed=0, shuffle=True)
    in_order = LengthBatchSampler(lengths, 8, seed=0, shuffle=False)
    assert padding_share(drawn) < padding_share(in_order) + 0.04


@pytest.mark.parametrize("world_size", [2, 3, 4])
@pytest.mark.parametrize("count", [1, 5, 64, 97, 1000])
@pytest.mark.parametrize("max_tokens", [None, 200])
def test_the_ranks_of_a_step_form_the_global_batch_of_one_device(world_size, count, max_tokens):
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
    assert doubled < world_size  # only if the last batch has fewer rows than ranks
    if count % (8 * world_size) >= world_size and whole is None:
        assert doubled == 0


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 7, 50])
def test_evaluation_has_each_row_once_longest_first(world_size, count):
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


def test_nothing_is_drawn_before_the_first_batch():
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
    assert len(batches) == len(sampler)  # equal in all epochs, because Lightning reads it once
    assert LENGTHS.sum() / len(batches) > 0.88 * 500
    assert padding_share(sampler) < 0.03


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 2, 7, 64, 500])
@pytest.mark.parametrize("max_tokens", [1, 60, 300, 10_000])
def test_max_tokens_holds_on_each_rank_and_in_each_epoch(world_size, count, max_tokens):
    lengths = LENGTHS[:count]
    ranks = [
        LengthBatchSampler(
            lengths,
            16,
            seed=0,
            shuffle=True,
            rank=rank,
            world_size=world_size,
            max_tokens=max_tokens,
        )
        for rank in range(world_size)
    ]
    steps = set()
    for epoch in range(4):
        for sampler in ranks:
            sampler.set_epoch(epoch)
        batches = [list(sampler) for sampler in ranks]
        steps |= {len(own) for own in batches} | {len(sampler) for sampler in ranks}
        assert set(flat(flat(batches))) == set(range(count))
        for batch in flat(batches):
            assert len(batch) == 1 or lengths[batch].max() * len(batch) <= max_tokens
            assert len(batch) <= 16
    assert len(steps) == 1


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_row_longer_than_max_tokens_is_a_single_batch(shuffle):
    sampler = LengthBatchSampler([9, 2, 2], 4, seed=0, shuffle=shuffle, max_tokens=4)
    assert sorted(map(sorted, sampler)) == [[0], [1, 2]]
    # The long row does not change the other batches.
    lengths = np.array([512, *LENGTHS])
    with_it, without = (
        LengthBatchSampler(rows, 64, seed=0, shuffle=shuffle, max_tokens=500)
        for rows in (lengths, LENGTHS)
    )
    assert [0] in list(with_it)
    assert len(with_it) == len(without) + 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be >= 1, got 0"),
        ({"max_tokens": 0}, "max_tokens must be >= 1, got 0"),
        ({"rank": 2, "world_size": 2}, r"rank must be in \[0, world_size=2\), got 2"),
    ],
)
def test_invalid_values_are_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        LengthBatchSampler([1], **{"batch_size": 1, "seed": 0, "shuffle": True, **arguments})


def pair_lengths(count, seed=0):
    """Return lengths of texts and translations, correlated like those of captions."""
    texts = realistic_lengths(count, seed)
    noise = np.random.default_rng(seed + 1).normal(0, 0.13, count)
    return np.stack([texts, np.maximum((texts * 1.15 * np.exp(noise)).round(), 3)], 1).astype(int)


def width(lengths):
    """Return the padded tokens of a row in a batch with these lengths."""
    return lengths.max(0).sum()


def padding_share_of_pairs(sampler):
    """Return the fraction of padding in both texts together."""
    batches = list(sampler)
    padded = sum(width(sampler.lengths[batch]) * len(batch) for batch in batches)
    return 1 - sampler.lengths.sum() / padded


@pytest.mark.parametrize(("count", "limit"), [(1000, 0.16), (5000, 0.07), (29_000, 0.03)])
def test_pairs_have_little_padding_in_both_texts(count, limit):
    lengths = pair_lengths(count)
    sampler = LengthBatchSampler(lengths, 32, seed=0, shuffle=True)
    in_order = LengthBatchSampler(lengths, 32, seed=0, shuffle=False)
    by_sum = LengthBatchSampler(lengths.sum(1), 32, seed=0, shuffle=False)
    by_sum.lengths = lengths
    for epoch in range(2):
        sampler.set_epoch(epoch)
        assert padding_share_of_pairs(sampler) < limit
    assert padding_share_of_pairs(in_order) < padding_share_of_pairs(by_sum)


def test_one_column_of_lengths_equals_a_flat_array():
    plain = LengthBatchSampler(LENGTHS, 32, seed=0, shuffle=True, max_tokens=500)
    column = LengthBatchSampler(LENGTHS[:, None], 32, seed=0, shuffle=True, max_tokens=500)
    assert list(plain) == list(column)


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 7, 64, 500])
@pytest.mark.parametrize("max_tokens", [1, 60, 300, 10_000])
@pytest.mark.parametrize("shuffle", [True, False])
def test_max_tokens_of_pairs_holds_in_each_epoch(world_size, count, max_tokens, shuffle):
    lengths = pair_lengths(count)
    ranks = [
        LengthBatchSampler(
            lengths,
            16,
            seed=0,
            shuffle=shuffle,
            rank=rank,
            world_size=world_size,
            max_tokens=max_tokens,
        )
        for rank in range(world_size)
    ]
    steps = set()
    for epoch in range(3):
        for sampler in ranks:
            sampler.set_epoch(epoch)
        batches = [list(sampler) for sampler in ranks]
        assert [len(own) for own in batches] == [len(sampler) for sampler in ranks]
        steps.add(tuple(map(len, batches)))
        assert set(flat(flat(batches))) == set(range(count))
        for batch in flat(batches):
            assert len(batch) == 1 or width(lengths[batch]) * len(batch) <= max_tokens
            assert len(batch) <= 16
    assert len(steps) == 1


def test_batches_of_pairs_use_most_of_max_tokens():
    sampler = LengthBatchSampler(pair_lengths(2000), 64, seed=0, shuffle=True, max_tokens=1000)
    used = [width(sampler.lengths[batch]) * len(batch) for batch in sampler]
    assert np.mean(used) > 800


def test_epochs_of_pairs_differ():
    sampler = LengthBatchSampler(pair_lengths(1000), 16, seed=0, shuffle=True)
    epochs = [{frozenset(batch) for batch in batches} for _, batches in epochs_of(sampler, 2)]
    assert len(epochs[0] & epochs[1]) < 10


def test_more_than_two_lengths_per_row_are_an_error():
    with pytest.raises(ValueError, match=r"lengths must be \(rows,\) or \(rows, 2\), got \(4, 3\)"):
        LengthBatchSampler(np.ones((4, 3)), 2, seed=0, shuffle=True)
