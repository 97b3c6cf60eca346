import numpy as np
import pytest
import torch
from scipy.stats import entropy
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import mutual_info_score, roc_auc_score
from sklearn.model_selection import KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from patronus_pl.errors import AttributeTableError, InvalidOptionError
from patronus_pl.metrics import auroc, explained_entropy, linear_probe, total_auroc_difference


def planted(n=600, m=7, a=5, seed=0):
    """Latents of uneven scale, attributes that depend on some of them, from rare to common."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, m)) * np.logspace(-2, 2, m) + 5
    logits = (x - 5) / np.logspace(-2, 2, m) @ rng.normal(size=(m, a)) + np.linspace(-3, 1, a)
    return x, (logits + rng.logistic(size=(n, a)) > 0).astype(float)


def test_auroc_equals_scikit_learn_with_ties_and_gaps():
    rng = np.random.default_rng(1)
    scores, labels = rng.integers(0, 6, (200, 4)).astype(float), rng.integers(0, 2, (200, 3)).astype(float)
    labels[rng.random(labels.shape) < 0.2] = np.nan
    expected = [[roc_auc_score(y[~np.isnan(y)], s[~np.isnan(y)]) for s in scores.T] for y in labels.T]
    np.testing.assert_allclose(auroc(scores, labels), expected, atol=1e-12)
    np.testing.assert_allclose(auroc(torch.tensor(scores), torch.tensor(labels)), expected, atol=1e-12)


def test_auroc_is_undefined_for_an_attribute_with_one_value_and_for_no_other():
    labels = np.array([[0.0, 1], [0, 0], [0, 1], [np.nan, 0]])
    result = auroc(np.arange(4.0)[:, None], labels)
    assert np.isnan(result[0, 0])
    assert result[1, 0] == roc_auc_score([1, 0, 1, 0], [0, 1, 2, 3])


def sklearn_probe(x, y):
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(tol=1e-8, max_iter=10_000))
    folds = KFold(5, shuffle=True, random_state=0)
    return np.array([cross_val_score(pipeline, x, target, cv=folds, scoring="roc_auc") for target in y.T])


def test_linear_probe_equals_scikit_learn():
    x, y = planted()
    expected, probe = sklearn_probe(x, y), linear_probe(x, y)
    np.testing.assert_allclose(probe.per_attribute, expected.mean(axis=1), atol=1e-3)
    assert probe.score == pytest.approx(expected.mean(), abs=1e-3)
    assert probe.std == pytest.approx(expected.mean(axis=0).std(), abs=1e-3)
    same = linear_probe(torch.tensor(x, requires_grad=True), torch.tensor(y, dtype=torch.int64))
    np.testing.assert_array_equal(same.per_attribute, probe.per_attribute)
    turned = y[:, ::-1] > 0
    turned.flags.writeable = False
    np.testing.assert_allclose(linear_probe(x, turned).per_attribute[::-1], probe.per_attribute, atol=1e-6)
    assert linear_probe(torch.tensor(x).bfloat16(), y).score == pytest.approx(probe.score, abs=0.05)


def test_linear_probe_survives_separable_attributes_rare_attributes_and_dead_latents():
    x, y = planted()
    x[:, 3] = 2.5
    y[:, 0] = x[:, 6] > 5
    y[:, 1] = np.arange(len(x)) % 40 == 0
    expected, probe = sklearn_probe(x, y), linear_probe(x, y)
    np.testing.assert_allclose(probe.per_attribute, expected.mean(axis=1), atol=1e-3)


def test_linear_probe_leaves_out_unknown_labels():
    x, y = planted()
    x = StandardScaler().fit_transform(x)
    gaps = y.copy()
    gaps[np.random.default_rng(2).random(y.shape) < 0.3] = np.nan
    scores = []
    for train, test in KFold(5, shuffle=True, random_state=0).split(x):
        scaler = StandardScaler().fit(x[train])
        fit, held_out = train[~np.isnan(gaps[train, 2])], test[~np.isnan(gaps[test, 2])]
        model = LogisticRegression(tol=1e-8, max_iter=10_000).fit(scaler.transform(x[fit]), gaps[fit, 2])
        scores.append(roc_auc_score(gaps[held_out, 2], model.decision_function(scaler.transform(x[held_out]))))
    assert linear_probe(x, gaps).per_attribute[2] == pytest.approx(np.mean(scores), abs=1e-3)


def test_linear_probe_marks_a_constant_attribute_and_averages_the_rest():
    x, y = planted()
    whole = linear_probe(x, y[:, 1:])
    y[:, 0] = 1
    probe = linear_probe(x, y)
    assert np.isnan(probe.per_attribute[0])
    assert probe.score == pytest.approx(whole.score)
    assert np.isfinite(probe.std)


def test_linear_probe_of_classes_is_held_out_accuracy():
    x, y = planted()
    labels = (y[:, 2] + 2 * y[:, 3]).astype(np.int64)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    expected = cross_val_score(pipeline, x, labels, cv=KFold(5, shuffle=True, random_state=0))
    probe = linear_probe(x, torch.tensor(labels))
    assert (probe.score, probe.std) == pytest.approx((expected.mean(), expected.std()), abs=1e-9)
    assert probe.per_attribute.shape == (4,)
    assert np.average(probe.per_attribute, weights=np.bincount(labels)) == pytest.approx(probe.score)


def test_probe_of_noise_is_chance():
    rng = np.random.default_rng(3)
    probe = linear_probe(rng.normal(size=(2000, 5)), rng.integers(0, 2, (2000, 8)))
    assert probe.score == pytest.approx(0.5, abs=0.02)


def tad_by_loops(x, y):
    """The definition, attribute by attribute, with scikit-learn's AUROC and mutual information."""
    tad, captured = 0.0, []
    for k in range(y.shape[1]):
        best, second = sorted((max(a, 1 - a) for a in (roc_auc_score(y[:, k], s) for s in x.T)), reverse=True)[:2]
        others = [mutual_info_score(y[:, k], y[:, j]) for j in range(y.shape[1]) if j != k]
        if best >= 0.75 and max(others) / entropy(np.bincount(y[:, k].astype(int)) / len(y)) <= 0.2:
            tad, captured = tad + best - second, [*captured, k]
    return tad, captured


def attributes_of_every_kind():
    """Captured by latent 0 (inverted sign), read by two latents, a near copy of another attribute, and noise."""
    rng = np.random.default_rng(4)
    y = rng.integers(0, 2, (1000, 5)).astype(float)
    y[:, 3] = np.where(rng.random(1000) < 0.05, 1 - y[:, 2], y[:, 2])
    x = rng.normal(size=(1000, 6))
    x[:, 0] -= 3 * y[:, 0]
    x[:, 1:3] += 2 * y[:, [1]]
    x[:, 3] += 3 * y[:, 2]
    return x, y


def test_tad_follows_the_definition():
    x, y = attributes_of_every_kind()
    result = total_auroc_difference(x, y)
    tad, captured = tad_by_loops(x, y)
    assert captured == [0, 1]
    assert result.captured.tolist() == captured
    assert result.tad == pytest.approx(tad)
    assert result.per_captured == pytest.approx(tad / 2)
    assert result.latent[[0, 2]].tolist() == [0, 3]
    np.testing.assert_array_equal(result.best, result.auroc.max(axis=1))
    assert result.std == 0


def test_tad_over_folds_is_the_mean_over_training_parts():
    x, y = attributes_of_every_kind()
    tads = [tad_by_loops(x[rows], y[rows])[0] for rows, _ in KFold(5, shuffle=True, random_state=0).split(x)]
    result = total_auroc_difference(torch.tensor(x), torch.tensor(y), folds=5)
    assert (result.tad, result.std) == pytest.approx((np.mean(tads), np.std(tads)))


def test_tad_of_a_single_latent_is_measured_from_chance():
    y = np.arange(100)[:, None] % 2
    result = total_auroc_difference(y.astype(float), y)
    assert (result.tad, result.best[0], result.second[0]) == (0.5, 1.0, 0.5)


def test_tad_skips_a_constant_attribute():
    x, y = attributes_of_every_kind()
    y[:, 0] = 0
    result = total_auroc_difference(x, y)
    assert result.captured.tolist() == [1]
    assert np.isnan(result.best[0])
    assert result.latent[0] == -1


def test_explained_entropy_of_known_tables():
    copy = np.array([[0, 0, 0], [0, 0, 1], [1, 1, 0], [1, 1, 1.0]])
    np.testing.assert_allclose(explained_entropy(copy), [1, 1, 0], atol=1e-12)
    # Three exclusive classes of one third each: I = H(1/3) − 2/3 · H(1/2).
    h = entropy([1 / 3, 2 / 3])
    np.testing.assert_allclose(explained_entropy(np.eye(3)), (h - 2 / 3 * np.log(2)) / h)
    gap = np.vstack([copy, [[1, np.nan, 0], [0, np.nan, 1]]])
    np.testing.assert_allclose(explained_entropy(gap)[1], 1)


def test_wrong_input_is_named():
    x, y = planted(n=20)
    with pytest.raises(AttributeTableError, match=r"attributes hold 2; use 0, 1 or NaN"):
        linear_probe(x, y + 1)
    with pytest.raises(AttributeTableError, match="none of 5 attributes has both a 0 and a 1"):
        total_auroc_difference(x, y * 0)
    with pytest.raises(InvalidOptionError, match="row 3 is not finite"):
        linear_probe(np.where(np.arange(20)[:, None] == 3, np.inf, x), y)
    with pytest.raises(InvalidOptionError, match="20 rows of activations but 19 of labels"):
        linear_probe(x, y[1:])
    with pytest.raises(InvalidOptionError, match=r"folds is 21; .* choose 1\.\.20"):
        total_auroc_difference(x, y, folds=21)
    with pytest.raises(InvalidOptionError, match=r"folds is 1; .* choose 2\.\.20"):
        linear_probe(x, y, folds=1)
    with pytest.raises(InvalidOptionError, match="1-D labels are classes and must be integers"):
        linear_probe(x, y[:, 0])
    with pytest.raises(AttributeTableError, match="all 20 labels are 7"):
        linear_probe(x, np.full(20, 7))
