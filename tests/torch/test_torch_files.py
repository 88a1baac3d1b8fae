"""Files that torch.save makes are read, and files that we make torch.load accepts."""

import ml_dtypes
import numpy as np
import pytest
import torch

from acestep_jax.weights import torchfile

pytestmark = pytest.mark.torch
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def values():
    return torch.arange(24, dtype=torch.float32).reshape(2, 3, 4) / 7


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "make",
    [
        lambda tensor: tensor,
        lambda tensor: tensor.transpose(1, 2),
        lambda tensor: tensor[1:, :, ::2],
        lambda tensor: tensor[:, 1].expand(5, 2, 4),
        lambda tensor: tensor[0, 0, 0],
        lambda tensor: tensor[:0],
        lambda tensor: tensor.clone().requires_grad_(),
    ],
    ids=["whole", "transposed", "strided", "expanded", "scalar", "empty", "gradient"],
)
def test_what_torch_saves_is_read(make, dtype, tmp_path):
    tensor = make(values().to(dtype))
    torch.save(tensor, tmp_path / "a.pt")
    ours = torchfile.load_tensor(tmp_path / "a.pt")
    assert str(ours.dtype) == str(dtype).removeprefix("torch.")
    np.testing.assert_array_equal(ours.astype(np.float32), tensor.detach().float().numpy())


@pytest.mark.parametrize("dtype", sorted(DTYPES))
@pytest.mark.parametrize("shape", [(1, 64, 15_000), (), (0, 2)])
def test_what_we_save_torch_loads_as_weights_only(shape, dtype, tmp_path):
    tensor = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    tensor = tensor.astype(DTYPES[dtype])
    torchfile.save_tensor(tmp_path / "a.pt", tensor)
    loaded = torch.load(tmp_path / "a.pt", weights_only=True)
    assert (str(loaded.dtype), tuple(loaded.shape)) == (f"torch.{dtype}", shape)
    np.testing.assert_array_equal(loaded.float().numpy(), tensor.astype(np.float32))
    mapped = torch.load(tmp_path / "a.pt", weights_only=True, mmap=True)
    assert torch.equal(mapped, loaded)


@pytest.mark.parametrize(
    "content",
    [
        {"silence": torch.ones(2)},
        [torch.ones(2)],
        (torch.ones(2), torch.ones(2)),
        torch.ones(2, dtype=torch.int64),
        torch.nn.Parameter(torch.ones(2)),
        "silence",
    ],
    ids=["dict", "list", "tuple", "integers", "parameter", "text"],
)
def test_anything_but_one_float_tensor_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(torchfile.TorchFileError):
        torchfile.load_tensor(tmp_path / "a.pt")


def test_the_format_before_zip_is_refused(tmp_path):
    torch.save(torch.ones(2), tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(torchfile.TorchFileError, match="not a readable torch zip file"):
        torchfile.load_tensor(tmp_path / "a.pt")
