"""Decoding in a thread leaves the interpreter to the other threads."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from preprocessing import PreprocessingSpec, SpecPreprocessing, to_input
from tests.preprocessing.files import LIMITS, encoded, noise

PREPROCESSING = SpecPreprocessing(PreprocessingSpec.imagenet())


@pytest.mark.parametrize("container", ["JPEG", "PNG", "WEBP"])
def test_this_thread_runs_on_while_another_preprocesses_a_large_picture(container):
    data = encoded(noise(2000, 1500), container)

    with ThreadPoolExecutor(1) as pool:
        started = time.thread_time()
        working = pool.submit(to_input, data, PREPROCESSING, LIMITS)
        while not working.done():
            pass
        ours = time.thread_time() - started

    # Where the lock is held, this thread gets nothing but a switch interval of 5 ms at either end.
    assert ours > 0.02


def test_threads_share_one_preprocessing():
    files = [encoded(noise(300, 200, seed=seed), "PNG") for seed in range(8)]
    expected = [to_input(file, PREPROCESSING, LIMITS) for file in files]

    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda file: to_input(file, PREPROCESSING, LIMITS), files))

    for one, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one, other)
