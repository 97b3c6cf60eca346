import json
import os
import pickle
import socket
import time

import numpy as np
import pytest
import torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from patronus_pl.errors import CorruptFileError, OutputError
from patronus_pl.metrics import (
    InceptionFeatures,
    RandomFeatures,
    WeightsNotFoundError,
    cached_arrays,
    distance_name,
    extract_features,
    network_hash,
)
from patronus_pl.metrics.weights import load_weights, weights_file


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    """Torch-fidelity's own network with random weights, and the file of them."""
    path = str(tmp_path_factory.mktemp("weights") / "inception.pth")
    torch.manual_seed(0)
    torch.save({}, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"], path)
    torch.save(network.state_dict(), path)
    return network, path


def test_inception_features_and_logits_are_torch_fidelitys(inception):
    reference, path = inception
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    network = InceptionFeatures(path).train()
    features = network(pixels.float() / 127.5 - 1)
    expected, logits = reference(pixels)
    torch.testing.assert_close(features, expected)
    torch.testing.assert_close(network.logits(features), logits)
    assert not network.inception.training
    grey = pixels[:1, :1]
    torch.testing.assert_close(network(grey.float() / 127.5 - 1), reference(grey.repeat(1, 3, 1, 1))[0])


def test_only_inception_is_called_fid(inception):
    assert distance_name(InceptionFeatures(inception[1])) == "FID"
    assert distance_name(RandomFeatures()) == "Frechet distance (RandomFeatures)"


def test_random_features_are_the_same_for_the_same_seed_only():
    torch.manual_seed(1)
    a = RandomFeatures(channels=1, width=4, seed=3)
    torch.manual_seed(2)
    b, c = RandomFeatures(channels=1, width=4, seed=3), RandomFeatures(channels=1, width=4, seed=4)
    x = torch.rand(5, 1, 20, 20) * 2 - 1
    assert a(x).shape == (5, a.num_features)
    assert torch.equal(a(x), b(x))
    assert network_hash(a) == network_hash(b) != network_hash(c)
    assert not any(p.requires_grad for p in a.parameters())


def test_network_hash_sees_the_class_too():
    class Other(RandomFeatures):
        pass

    assert network_hash(Other(width=4)) != network_hash(RandomFeatures(width=4))


def test_extract_features_ignores_autocast_and_batching():
    network, x = RandomFeatures(width=4), torch.rand(5, 3, 16, 16) * 2 - 1
    with torch.autocast("cpu", torch.bfloat16):
        features = extract_features(network, x.split(2))
    torch.testing.assert_close(features, network(x))
    assert not features.requires_grad


def test_cached_arrays_computes_once_a_key(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return {"mean": np.arange(3.0), "n": np.array(len(calls))}

    for _ in range(2):
        result = cached_arrays(tmp_path / "new", {"data": "A", "size": 32}, compute)
        np.testing.assert_array_equal(result["mean"], [0, 1, 2])
        assert result["n"] == 1
        assert set(result) == {"mean", "n"}
    assert cached_arrays(tmp_path / "new", {"size": 32, "data": "A"}, compute)["n"] == 1
    assert cached_arrays(tmp_path / "new", {"size": 64, "data": "A"}, compute)["n"] == 2
    assert {file.suffix for file in (tmp_path / "new").iterdir()} == {".npz"}


def test_cached_arrays_replaces_a_broken_or_foreign_file(tmp_path):
    cached_arrays(tmp_path, {}, lambda: {"n": np.array(1)})
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    for broken in (b"", b"not a zip", whole[: len(whole) // 2]):
        file.write_bytes(broken)
        assert cached_arrays(tmp_path, {}, lambda: {"n": np.array(2)})["n"] == 2
    np.savez(file, n=np.array(3), key=np.array(json.dumps({"other": 1})))
    assert cached_arrays(tmp_path, {}, lambda: {"n": np.array(4)})["n"] == 4
    np.savez(file, n=np.array([object()]), key=np.array("{}"))
    assert cached_arrays(tmp_path, {}, lambda: {"n": np.array(5)})["n"] == 5


def test_cached_arrays_names_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"cannot write .*choose another cache folder"):
        cached_arrays(tmp_path / "file", {}, lambda: {"n": np.array(1)})


def test_weights_file_prefers_the_path_then_the_hub_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    given, kept = tmp_path / "given.pth", tmp_path / "hub/checkpoints/net-01234567.pth"
    given.write_bytes(b"a")
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"b")
    assert weights_file("net", "http://127.0.0.1:1/net-01234567.pth", str(given)) == given
    assert weights_file("net", "http://127.0.0.1:1/net-01234567.pth") == kept


def test_a_download_is_checked_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    source = tmp_path / "net-ba7816bf.pth"  # SHA-256 of "abc" starts like this
    source.write_bytes(b"abc")
    assert weights_file("net", source.as_uri()).read_bytes() == b"abc"
    wrong = tmp_path / "net-00000000.pth"
    wrong.write_bytes(b"abc")
    with pytest.raises(WeightsNotFoundError, match="invalid hash value"):
        weights_file("net", wrong.as_uri())


def test_a_network_that_refuses_or_stays_silent_ends_in_one_message(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/net-01234567.pth"
        started = time.monotonic()
        with pytest.raises(WeightsNotFoundError, match=r"net: cannot download http.*timed out.*copy the file to .*hub"):
            weights_file("net", url, timeout=0.2)
        assert time.monotonic() - started < 10
    with pytest.raises(WeightsNotFoundError, match=r"refused.*or give its path"):
        weights_file("net", url)
    assert socket.getdefaulttimeout() is None
    assert not list((tmp_path / "hub/checkpoints").iterdir())
    with pytest.raises(WeightsNotFoundError, match=r"no file .*absent.pth.*; download http"):
        InceptionFeatures(str(tmp_path / "absent.pth"))


class Touch:
    """Unpickling this runs a command."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("content", ["code", "truncated", "text", "list"])
def test_weights_hold_tensors_only(tmp_path, content):
    file, planted = tmp_path / "weights.pth", tmp_path / "planted"
    torch.save({"weight": torch.zeros(100)}, file)
    whole = file.read_bytes()
    match content:
        case "code":
            file.write_bytes(pickle.dumps(Touch(planted)))
        case "truncated":
            file.write_bytes(whole[: len(whole) // 2])
        case "text":
            file.write_text("<html>not found</html>")
        case "list":
            torch.save([torch.zeros(1)], file)
    with pytest.raises(CorruptFileError, match=r"weights\.pth holds .*download it again"):
        load_weights(file)
    with pytest.raises(CorruptFileError, match="download it again"):
        InceptionFeatures(str(file))
    assert not planted.exists()


def test_weights_of_another_network_are_refused(tmp_path):
    file = tmp_path / "other.pth"
    torch.save({"weight": torch.zeros(2)}, file)
    with pytest.raises(CorruptFileError, match="does not hold torch-fidelity's Inception v3 weights"):
        InceptionFeatures(str(file))
