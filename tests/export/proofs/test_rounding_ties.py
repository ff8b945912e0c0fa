"""Codes taken over from another model: where they differ from one's own, and how near to the border."""

import pytest
import torch

from q8bert.export.proofs.rounding_ties import TieResolver

NO_ZERO_POINT = torch.tensor(0.0)


def test_a_tie_is_resolved_the_other_models_way_and_a_defect_shows_its_distance() -> None:
    resolver = TieResolver()
    scale = torch.tensor(0.5)
    # in steps of the scale: 2.4999 (a tie within float error), 3.0, −130 (clamped); a second row without ties
    x = torch.tensor([[1.24995, 1.5, -65.0], [1.0, 0.0, 0.0]])
    mine = [2.0, 0.0, 0.0]
    codes = [torch.tensor([[3.0, 3.0, -128.0], mine]), torch.tensor([[2.0, 4.0, -128.0], mine])]
    resolver.start_batch(codes, torch.ones(2, 5, dtype=torch.int64))
    torch.testing.assert_close(resolver(x, scale, NO_ZERO_POINT, 0), torch.tensor([[1.5, 1.5, -64.0], [1.0, 0.0, 0.0]]))
    assert (resolver.n_codes, resolver.n_ties) == (6, 1)
    assert resolver.max_tie_distance == pytest.approx(1e-4, rel=0.01)
    resolver(x, scale, NO_ZERO_POINT, 1)
    assert (resolver.n_codes, resolver.n_ties) == (12, 2)
    assert resolver.max_tie_distance == pytest.approx(0.5)  # 3.0 became 4: half a code past the border
    first, second = resolver.rows
    assert (first.count, first.first_site, first.first_distance) == (2, 0, pytest.approx(1e-4, rel=0.01))
    assert (second.count, second.first_site) == (0, None)
    resolver(torch.full_like(x, torch.nan), scale, NO_ZERO_POINT, 0)
    assert resolver.max_tie_distance == float("inf")


def test_a_tie_in_padding_is_counted_and_explains_no_row() -> None:
    resolver = TieResolver()
    x = torch.tensor([[[1.0], [1.24995]], [[1.24995], [1.24995]]])  # in steps: 2, and 2.4999, which they call 3
    codes = torch.tensor([[[2.0], [3.0]], [[3.0], [3.0]]])
    resolver.start_batch([codes], torch.tensor([[1, 0], [1, 0]]))
    torch.testing.assert_close(resolver(x, torch.tensor(0.5), NO_ZERO_POINT, 0), codes / 2)
    assert resolver.n_ties == 3
    assert [(row.count, row.first_site) for row in resolver.rows] == [(0, None), (1, 0)]


def test_with_a_zero_point_codes_are_those_of_the_shifted_grid() -> None:
    resolver = TieResolver()
    # in steps: 2.4999, 20.0, -1.2 and 240, which with zero point -120 have codes -118, -100, -121 and 120
    x = torch.tensor([[1.24995, 10.0, -0.6, 120.0]])
    resolver.start_batch([torch.tensor([[-117.0, -100.0, -121.0, 120.0]])], torch.ones(1, 5, dtype=torch.int64))
    found = resolver(x, torch.tensor(0.5), torch.tensor(-120.0), 0)
    torch.testing.assert_close(found, torch.tensor([[1.5, 10.0, -0.5, 120.0]]))
    assert resolver.n_ties == 1
    assert resolver.max_tie_distance == pytest.approx(1e-4, rel=0.01)


def test_where_the_model_computes_one_row_alone_the_others_are_rounded_by_plain_rules() -> None:
    resolver = TieResolver()
    x = torch.tensor([[[1.24995], [1.24995], [65.0]]])  # in steps: 2.4999 twice, and 130, which is clamped
    resolver.start_batch([torch.tensor([[[3.0]]])], torch.ones(1, 3, dtype=torch.int64))
    found = resolver(x, torch.tensor(0.5), NO_ZERO_POINT, 0)
    torch.testing.assert_close(found, torch.tensor([[[1.5], [1.0], [63.5]]]))
    assert (resolver.n_codes, resolver.n_ties, resolver.rows[0].count) == (1, 1, 1)
