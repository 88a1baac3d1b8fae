"""The reader of torch's zip format: right on tensors, deaf to everything else."""

import collections
import io
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest

from acestep_jax.weights import torchfile
from acestep_jax.weights.torchfile import TorchFileError, load_tensor, save_tensor


def repack(file, **replaced):
    """Rewrites a torch file with some of its entries replaced; None removes one."""
    with zipfile.ZipFile(file) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    root = next(iter(entries)).split("/")[0]
    for name, content in replaced.items():
        entries[f"{root}/{name.replace('__', '/').replace('_pkl', '.pkl')}"] = content
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in entries.items():
            if content is not None:
                archive.writestr(name, content)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "silence_latent.pt"
    save_tensor(path, np.arange(24, dtype=np.float32).reshape(1, 4, 6))
    return path


def program(file):
    with zipfile.ZipFile(file) as archive:
        return archive.read("silence_latent/data.pkl")


def test_the_released_layout_is_read(checkpoints):
    # torch 2.13's own file; channels first, 15,000 frames, constant after the first four
    silence = load_tensor(checkpoints / "acestep-v15-turbo" / "silence_latent.pt")
    assert (silence.shape, silence.dtype) == ((1, 6, 15_000), np.float32)
    assert np.isfinite(silence).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("shape", [(), (0, 3), (1, 6, 7)])
def test_what_is_written_is_read_back(shape, dtype, tmp_path):
    tensor = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    save_tensor(tmp_path / "a.pt", tensor)
    again = load_tensor(tmp_path / "a.pt")
    assert (again.dtype, again.shape) == (tensor.dtype, tensor.shape)
    np.testing.assert_array_equal(again, tensor)


def test_the_same_tensor_gives_the_same_file(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        save_tensor(tmp_path / folder / "s.pt", np.ones(3, np.float32))
    assert (tmp_path / "a" / "s.pt").read_bytes() == (tmp_path / "b" / "s.pt").read_bytes()


def test_big_endian_bytes_are_swapped(file):
    values = np.arange(24, dtype=">f4")
    repack(file, byteorder=b"big", data__0=values.tobytes())
    np.testing.assert_array_equal(load_tensor(file).ravel(), np.arange(24, dtype=np.float32))


def test_a_transposed_tensor_with_an_offset_is_made_contiguous(file):
    # view of [24] from element 2, shape [2, 3], strides [1, 4]
    class Tensor:
        def __reduce__(self):
            return stand_in("torch._utils", "_rebuild_tensor_v2"), (
                Storage(24), 2, (2, 3), (1, 4), False, collections.OrderedDict(),
            )  # fmt: skip

    repack(file, data_pkl=dump(Tensor()))
    np.testing.assert_array_equal(load_tensor(file), [[2, 6, 10], [3, 7, 11]])


class Storage:
    def __init__(self, size, kind="FloatStorage"):
        self.size, self.kind = size, kind


def stand_in(module, name):
    """Makes a function that pickles as module.name, which need not exist."""

    def called(*args):
        raise AssertionError("never called")

    called.__module__, called.__qualname__, called.__name__ = module, name, name
    return called


def dump(value, protocol=2):
    """Pickles as torch does: storages by reference, functions by name without looking them up."""
    stream = io.BytesIO()

    class Pickler(pickle._Pickler):
        def persistent_id(self, value):
            if isinstance(value, Storage):
                kind = stand_in("torch", value.kind)
                return ("storage", kind, "0", "cpu", value.size)
            return None

        def save_global(self, value, name=None):
            self.write(pickle.GLOBAL + f"{value.__module__}\n{value.__qualname__}\n".encode())

    Pickler.dispatch = {
        **pickle._Pickler.dispatch,
        type(dump): Pickler.save_global,
        type: Pickler.save_global,
    }
    Pickler(stream, protocol).dump(value)
    return stream.getvalue()


class Rebuilt:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


HOOKS = collections.OrderedDict()
REBUILD = stand_in("torch._utils", "_rebuild_tensor_v2")
TENSOR = Rebuilt(REBUILD, Storage(24), 0, (24,), (1,), False, HOOKS)


@pytest.mark.parametrize(
    "value, message",
    [
        (Rebuilt(stand_in("os", "system"), "touch /tmp/owned"), "asks for os.system"),
        (Rebuilt(stand_in("builtins", "eval"), "1"), "asks for builtins.eval"),
        (Rebuilt(REBUILD, stand_in("os", "system"), 0, (1,), (1,), False, HOOKS), "os.system"),
        ({"silence": TENSOR}, "it uses the instruction EMPTY_DICT"),
        ([TENSOR], "it uses the instruction EMPTY_LIST"),
        ((TENSOR, TENSOR), "holds tuple, not one tensor"),
        (3, "holds int, not one tensor"),
        (Rebuilt(REBUILD, 3, 0, (1,), (1,), False, HOOKS), "not the pickle of one tensor"),
        (Rebuilt(REBUILD, Storage(24, "LongStorage"), 0, (3,), (1,), False, HOOKS), "LongStorage"),
        (Rebuilt(REBUILD, Storage(24), 0, (25,), (1,), False, HOOKS), "do not hold"),
        (Rebuilt(REBUILD, Storage(24), 20, (5,), (1,), False, HOOKS), "do not hold"),
        (Rebuilt(REBUILD, Storage(24), -1, (2,), (1,), False, HOOKS), "do not hold"),
        (Rebuilt(REBUILD, Storage(24), 0, (2,), (-1,), False, HOOKS), "do not hold"),
        (Rebuilt(REBUILD, Storage(24), 0, (2, 2), (1,), False, HOOKS), "do not hold"),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_anything_but_one_tensor_is_refused(value, message, file):
    repack(file, data_pkl=dump(value))
    with pytest.raises(TorchFileError, match=message.replace(".", r"\.")):
        load_tensor(file)


def test_the_newer_pickle_protocols_are_understood(file):
    class Named(pickle._Pickler):
        def persistent_id(self, value):
            return (
                ("storage", Name("torch", "FloatStorage"), "0", "cpu", 24)
                if value is STORAGE
                else None
            )

        def save(self, value, save_persistent_id=True):
            if isinstance(value, Name):
                super().save(value.module)
                super().save(value.name)
                self.write(pickle.STACK_GLOBAL)
            else:
                super().save(value, save_persistent_id)

    stream, STORAGE = io.BytesIO(), object()
    pickler = Named(stream, 4)
    pickler.write(pickle.PROTO + b"\x04")
    pickler.save(Name("torch._utils", "_rebuild_tensor_v2"))
    pickler.save((STORAGE, 0, (4, 6), (6, 1), False, ()))
    pickler.write(pickle.REDUCE + pickle.STOP)
    repack(file, data_pkl=stream.getvalue())
    assert load_tensor(file).shape == (4, 6)


Name = collections.namedtuple("Name", "module name")


def test_damaged_files_are_refused(file, tmp_path):
    content = file.read_bytes()
    for cut in (0, 10, 200, len(content) - 30):
        (tmp_path / "cut.pt").write_bytes(content[:cut])
        with pytest.raises(TorchFileError, match="not a readable torch zip file"):
            load_tensor(tmp_path / "cut.pt")
    position = content.index(np.arange(24, dtype=np.float32).tobytes())
    flipped = bytearray(content)
    flipped[position + 5] ^= 1
    (tmp_path / "flipped.pt").write_bytes(flipped)
    with pytest.raises(TorchFileError, match="Bad CRC-32"):
        load_tensor(tmp_path / "flipped.pt")


@pytest.mark.parametrize(
    "replaced, message",
    [
        ({"data_pkl": None}, "holds 0 pickles"),
        ({"data__0": None}, "lacks the plain bytes data/0"),
        ({"byteorder": b"middle"}, "byte order 'middle'"),
        ({"data_pkl": b"\x80\x02"}, "not the pickle of one tensor"),
        ({"data_pkl": b"\x80\x02."}, "holds nothing"),
        ({"data_pkl": b"\x80\x02t."}, "not the pickle of one tensor"),
        ({"data_pkl": b" " * 1_000_001}, "far more than one tensor"),
    ],
)
def test_incomplete_archives_are_refused(replaced, message, file):
    repack(file, **replaced)
    with pytest.raises(TorchFileError, match=message):
        load_tensor(file)


def test_integers_cannot_be_written(tmp_path):
    with pytest.raises(ValueError, match="convert to float32"):
        save_tensor(tmp_path / "a.pt", np.arange(3))


def test_the_pickle_is_the_one_torch_writes_up_to_the_width_of_integers(file):
    # torch writes small integers in fewer bytes; the calls and their order must be the same
    import pickletools

    names = [
        argument
        for opcode, argument, _ in pickletools.genops(program(file))
        if opcode.name == "GLOBAL"
    ]
    assert names == [
        "torch._utils _rebuild_tensor_v2",
        "torch FloatStorage",
        "collections OrderedDict",
    ]
    assert torchfile._describe(file, program(file)).strides == (24, 6, 1)
