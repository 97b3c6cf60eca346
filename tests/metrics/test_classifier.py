import pytest
import torch

from patronus_pl.errors import CorruptFileError
from patronus_pl.metrics import ClassifierFeatures, RandomFeatures, SmallCNN, WeightsNotFoundError, distance_name


@pytest.fixture
def classifier(tmp_path):
    torch.manual_seed(0)
    network = SmallCNN(channels=1, attributes=3).eval()
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    return network, str(tmp_path / "weights.pt")


def test_features_are_what_the_last_layer_of_the_classifier_sees(classifier):
    network, path = classifier
    images = torch.rand(4, 1, 32, 32) * 2 - 1
    features = ClassifierFeatures(path).train()
    assert not features.training
    expected = network(images)
    torch.testing.assert_close((features(images) @ network.last.weight.T + network.last.bias).sigmoid(), expected)
    # Every image alone: nothing depends on its batch, even after a call of train().
    torch.testing.assert_close(features(images[1:2]), features(images)[1:2])
    assert distance_name(features) == "Frechet distance (ClassifierFeatures)"


def test_a_missing_file_and_one_of_another_network_are_named(classifier, tmp_path):
    with pytest.raises(WeightsNotFoundError, match=r"no weights at 'nowhere.pt'; benchmarks/fashion_features.py"):
        ClassifierFeatures("nowhere.pt")
    torch.save(RandomFeatures(1).state_dict(), tmp_path / "other.pt")
    with pytest.raises(CorruptFileError, match=r"other.pt does not hold the weights of a SmallCNN"):
        ClassifierFeatures(str(tmp_path / "other.pt"))
