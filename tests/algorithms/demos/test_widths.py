"""A default step on noise leaves a base of any width about where it was."""

import pytest

pytest.importorskip("peft")

from algorithms.demos.widths import after


def test_four_steps_on_noise_leave_a_wide_base_nearer_than_a_narrow_one_and_the_narrow_ones_rate_does_not() -> None:
    narrow, wide = after(4, 128, 1, {}), after(4, 512, 1, {})
    assert wide.kl_to_base < narrow.kl_to_base and wide.clip_share < 0.1
    tuned_for_128 = after(4, 512, 1, {"lr": 1e-3, "warmup": 0})
    assert tuned_for_128.kl_to_base > 5 * narrow.kl_to_base and tuned_for_128.clip_share > 0.5
