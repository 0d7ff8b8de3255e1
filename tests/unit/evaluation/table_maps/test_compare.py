import json

import numpy as np
import pytest

from backstay.errors import InputError, UsageError
from backstay.evaluation.table_maps import sample as sampling
from backstay.evaluation.table_maps.advice import SIMPLEST_FIRST
from backstay.evaluation.table_maps.compare import compare_tables
from backstay.evaluation.table_maps.fits import FITS
from backstay.evaluation.table_maps.outside_tables import open_outside_tables
from backstay.evaluation.table_maps.results import Conclusion, SkippedMap
from backstay.evaluation.table_maps.sample import shared_ids
from backstay.evaluation.table_maps.write import document, to_json


@pytest.fixture
def out(tmp_path):
    return tmp_path / "run"


def scores(results):
    return {(s.source, s.target, s.method, s.route): s for s in results.maps}


def numbers(score):
    """Every figure of a score in one list."""
    return np.concatenate([np.ravel(v) for v in vars(score).values() if not isinstance(v, str)])


def test_the_maps_have_an_order_of_simplicity():
    assert tuple(FITS) == SIMPLEST_FIRST


def test_rotated_moved_and_shuffled_tables_lead_back(world, out):
    results = compare_tables(world, out=out)
    found = scores(results)
    assert list(dict.fromkeys((s.source, s.target) for s in results.maps)) == [
        (1, 0),
        (2, 1),
        (2, 0),
    ]
    for route in ("direct", "chain"):
        for method in ("similarity", "ridge-intercept"):
            score = found[2, 0, method, route]
            assert score.cosine > 0.99
            assert score.overlap_at_10 > 0.85
            assert score.recall_retention > 0.99
            assert score.relative_error < 0.1
    assert found[1, 0, "no-map", "direct"].overlap_at_10 < 0.2
    assert found[1, 0, "procrustes", "direct"].spectral_norm == pytest.approx(1, abs=1e-5)
    assert found[1, 0, "procrustes", "direct"].condition_number == pytest.approx(1, abs=1e-5)
    assert (1, 0, "ridge", "chain") not in found
    assert [part.code for part in results.advice] == ["use-map"] * 3
    assert [part.score.method for part in results.advice] == ["similarity"] * 3
    assert results.advice[2].score.route == "chain"  # as good, and nothing to fit or keep
    assert results.conclusion == Conclusion(newest=2, replaced=(0, 1), kept=(), unknown=())
    for score in results.maps:
        low, high = score.overlap_interval
        assert low <= score.overlap_at_10 <= high
        assert high - low < 0.1
    assert list(out.iterdir()) == []  # no sampled vectors stay


def test_unrelated_tables_are_kept(save, out):
    rng = np.random.default_rng(3)
    ids = np.arange(600)
    paths = [save(f"v{n}.parquet", ids, rng.standard_normal((600, 16))) for n in range(2)]
    results = compare_tables(paths, out=out)
    assert all(score.overlap_at_10 < 0.15 for score in results.maps)
    assert results.advice[0].code == "keep-old"
    assert results.conclusion == Conclusion(newest=1, replaced=(), kept=(0,), unknown=())


def test_a_table_that_did_not_move_needs_no_map(save, out):
    vectors = np.random.default_rng(3).standard_normal((300, 6))
    wider = np.column_stack([vectors, np.random.default_rng(4).standard_normal((300, 2))])
    paths = [save(f"v{n}.parquet", np.arange(300), part) for n, part in enumerate((vectors, wider))]
    (advice,) = compare_tables(paths, out=out).advice
    assert advice.score.method == "no-map"
    assert advice.code == "no-map-needed"


def test_search_that_works_is_no_promise_for_models(save, out):
    vectors = np.random.default_rng(3).standard_normal((300, 6))
    paths = [save("v0.parquet", np.arange(300), vectors)]
    paths.append(save("v1.parquet", np.arange(300), 3 * vectors))
    (advice,) = compare_tables(paths, out=out, methods=["procrustes"]).advice
    assert (advice.code, advice.search_only) == ("use-map", True)
    (better,) = compare_tables(paths, out=out).advice
    assert better.score.method == "similarity"
    assert not better.search_only


def test_where_a_middle_version_lost_what_the_older_had_the_direct_map_is_named(save, out):
    rng = np.random.default_rng(8)
    ids, vectors = np.arange(900), rng.standard_normal((900, 8))
    narrow = vectors[:, :3]  # version 1 forgot five dimensions; version 2 has them again
    turned = vectors @ np.linalg.qr(rng.standard_normal((8, 8)))[0]
    paths = [save(f"v{n}.parquet", ids, v) for n, v in enumerate((vectors, narrow, turned))]
    results = compare_tables(paths, out=out)
    found = scores(results)
    assert found[2, 0, "ridge", "direct"].overlap_at_10 > 0.99
    assert found[2, 0, "ridge", "chain"].overlap_at_10 < 0.6
    advice = {part.score.pair: part for part in results.advice}
    assert advice[2, 0].score.route == "direct"
    assert advice[2, 0].code == "use-map"
    assert advice[1, 0].code == "keep-old"
    assert results.skipped == (
        SkippedMap(source=1, target=0, method="no-map", code="too-few-dimensions"),
    )
    assert found[1, 0, "procrustes", "direct"].condition_number == pytest.approx(1, abs=1e-5)


def test_neither_row_order_nor_other_ids_of_one_table_move_the_figures(save, out):
    rng = np.random.default_rng(9)
    old, new = rng.standard_normal((400, 5)), rng.standard_normal((400, 6))
    new[:, :5] += 2 * old
    ids = np.arange(400)
    straight = [save("a0.parquet", ids, old), save("a1.parquet", ids, new)]
    order = rng.permutation(400)
    ids_more = np.concatenate([ids[order], np.arange(1000, 1050)])
    more = np.concatenate([new[order], rng.standard_normal((50, 6))])
    shuffled = [straight[0], save("b1.parquet", ids_more, more)]
    one, other = (compare_tables(paths, out=out) for paths in (straight, shuffled))
    for a, b in zip(one.maps, other.maps, strict=True):
        assert numbers(a) == pytest.approx(numbers(b), rel=1e-4, abs=1e-6)
    assert one.pairs[0].common == other.pairs[0].common == 400
    assert (other.pairs[0].only_newer, other.pairs[0].only_older) == (50, 0)


def test_held_out_ids_are_in_no_fit_of_any_pair(world):
    tables = open_outside_tables(world)
    shared = shared_ids(tables, fit=300, judge=100)
    fitted = set().union(*(ids.fitted.tolist() for ids in shared.values()))
    judged = set().union(*(ids.judged.tolist() for ids in shared.values()))
    assert not fitted & judged
    for ids in shared.values():
        assert (len(ids.fitted), len(ids.judged)) == (300, 100)
        assert ids.gallery(150)[:100].tolist() == ids.judged.tolist()
        assert len(set(ids.gallery(150).tolist())) == 150


def test_about_a_fifth_is_held_out(world):
    ids = shared_ids(open_outside_tables(world), fit=10**6, judge=10**6)[1, 0]
    assert len(ids.fitted) + len(ids.judged) == ids.common == 700
    assert 100 < len(ids.judged) < 180


def test_a_pair_without_ids_in_common_is_left_out_where_steps_have_them(save, out):
    rng = np.random.default_rng(6)
    ranges = [range(300), range(150, 450), range(300, 600)]
    paths = [
        save(f"v{n}.parquet", list(ids), rng.standard_normal((300, 4)))
        for n, ids in enumerate(ranges)
    ]
    results = compare_tables(paths, out=out)
    assert {(s.source, s.target) for s in results.maps} == {(1, 0), (2, 1)}
    assert results.skipped == (SkippedMap(source=2, target=0, method=None, code="too-few-ids"),)
    assert results.conclusion.unknown == (0,)


def test_the_seed_moves_intervals_alone(world, out):
    one, again, other = (compare_tables(world[:2], out=out, seed=seed) for seed in (0, 0, 1))
    assert one == again
    assert one.maps[-1].overlap_interval != other.maps[-1].overlap_interval
    assert one.maps[-1].overlap_at_10 == other.maps[-1].overlap_at_10


def test_a_smaller_sample_fits_worse(world, out):
    small, whole = (
        scores(compare_tables(world[:2], out=out, methods=["ridge"], sample=sample))
        for sample in (12, 10_000)
    )
    key = (1, 0, "ridge", "direct")
    assert small[key].relative_error > whole[key].relative_error


def test_blocks_do_not_matter(world, out, monkeypatch):
    whole = compare_tables(world[:2], out=out)
    monkeypatch.setattr(sampling, "BLOCK_ROWS", 13)
    for a, b in zip(whole.maps, compare_tables(world[:2], out=out).maps, strict=True):
        assert a.relative_error == pytest.approx(b.relative_error, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"methods": ["ridge", "magic"]}, "found magic"),
        ({"methods": []}, "found none"),
        ({"sample": 0}, "at least 1 id"),
    ],
)
def test_invalid_options_are_refused(world, out, options, words):
    with pytest.raises(UsageError, match=words):
        compare_tables(world, out=out, **options)


def test_one_table_is_none_to_compare(world, out):
    with pytest.raises(UsageError, match="two tables or more, oldest first; found 1"):
        compare_tables(world[:1], out=out)


def test_tables_without_ids_in_common_are_refused(save, out):
    vectors = np.random.default_rng(0).standard_normal((300, 4))
    paths = [save(f"v{n}.parquet", np.arange(300) + 300 * n, vectors) for n in range(2)]
    with pytest.raises(InputError, match=r"v1\.parquet and .*v0\.parquet have 0 ids in common"):
        compare_tables(paths, out=out)


def test_a_failure_leaves_no_sampled_vectors(save, out):
    vectors = np.random.default_rng(0).standard_normal((300, 4))
    paths = [save("v0.parquet", np.arange(300), vectors)]
    vectors[299, 3] = np.nan
    paths.append(save("v1.parquet", np.arange(300), vectors))
    with pytest.raises(InputError, match=r"v1\.parquet: row 299, id 299"):
        compare_tables(paths, out=out)
    assert list(out.iterdir()) == []


def test_the_document_is_json(world, out):
    results = compare_tables(world, out=out)
    assert json.loads(to_json(results)) == json.loads(json.dumps(document(results)))
    assert set(document(results)) == {
        *("verdict", "conclusion", "tables", "pairs", "maps", "advice", "left_out", "settings")
    }
