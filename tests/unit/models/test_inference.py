import pytest
import torch

from backstay.datasets.dataset import Attributes
from backstay.models import inference
from backstay.models.architectures import ARCHITECTURES, build_model
from backstay.models.graph import full_graph
from backstay.models.inference import embed
from backstay.models.protocol import ModelConfig
from backstay.models.snapshot import Snapshot
from tests.support.snapshots import random_snapshot, step_of


@pytest.fixture(params=sorted(ARCHITECTURES))
def model(request):
    config = ModelConfig(architecture=request.param, dim=6, layers=3, values=(5, 7))
    return build_model(config, seed=0)


@pytest.fixture
def snapshot():
    return Snapshot.of(*random_snapshot())


@pytest.mark.parametrize("block_nodes", [1, 7, 12, 1000])
def test_blocks_of_any_size_give_what_the_full_graph_gives(model, snapshot, block_nodes):
    z = embed(model, snapshot, block_nodes=block_nodes)
    with torch.no_grad():
        expected = model.eval()(full_graph(snapshot, model.normalisation))
    assert (z.shape, z.dtype) == ((snapshot.n_nodes, 6), torch.float32)
    torch.testing.assert_close(z, expected, atol=1e-6, rtol=1e-6)


def test_vectors_in_a_mapped_file_are_the_same_and_leave_no_file(
    model, snapshot, monkeypatch, tmp_path
):
    expected = embed(model, snapshot)
    monkeypatch.setattr(inference, "MAPPED_BYTES", 1)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    mapped = []
    from_file = torch.from_file
    monkeypatch.setattr(
        torch, "from_file", lambda *args, **kw: mapped.append(args) or from_file(*args, **kw)
    )
    z = embed(model, snapshot, block_nodes=7)
    assert len(mapped) == model.n_layers
    torch.testing.assert_close(z, expected, atol=1e-6, rtol=1e-6)
    assert not list(tmp_path.iterdir())
    (z.clone() + z).sum()  # still readable
    assert z.is_contiguous()


def test_the_model_stays_in_its_mode_and_learns_nothing(model, snapshot):
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    z = embed(model, snapshot)
    assert model.training
    assert all(module.training for module in model.modules())
    assert not z.requires_grad
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_failure_leaves_the_mode_too(model, snapshot, monkeypatch):
    def fails(*_):
        raise RuntimeError("lost")

    monkeypatch.setattr(model, "start", fails)
    model.train()
    with pytest.raises(RuntimeError, match="lost"):
        embed(model, snapshot)
    assert model.training


def test_no_nodes_give_no_vectors(model):
    nobody = Snapshot.of(step_of([], n_users=0, n_items=0), Attributes(()))
    bare = build_model(ModelConfig(architecture=model.config.architecture, dim=6), seed=0)
    assert embed(bare, nobody).shape == (0, 6)
