"""clctl convert: layouts of other programs, and files that were made to harm."""

import argparse
import io
import pickle
import zipfile
from collections import OrderedDict

import pytest
import torch
import torchvision
from safetensors.torch import load_file

from clctl.commands.convert import _guess
from clctl.console import Problem
from clctl.encoders import vit_small, vit_tiny
from clctl.store import foreign

SAY = "--i-trust-this-file"


@pytest.fixture(scope="module")
def resnet():
    """A state dict of torchvision's ResNet-18 with numbers that name their place."""
    torch.manual_seed(0)
    return torchvision.models.resnet18().state_dict()


@pytest.fixture(scope="module")
def vit():
    """A state dict with timm's keys: vit_tiny of patch 16 at 64 pixels, with a head."""
    torch.manual_seed(1)
    state = vit_tiny.Config(patch=16).build(64).state_dict()
    return {**state, "head.weight": torch.ones(10, 192), "head.bias": torch.ones(10)}


def behind(prefix, state, drop=()):
    return {prefix + k: v for k, v in state.items() if not k.startswith(drop)}


def other(state):
    return {k: v + 1 for k, v in state.items()}


def children(state):
    """As nn.Sequential(*list(resnet.children())[:-1]) names them."""
    model = torchvision.models.resnet18()
    model.load_state_dict(state)
    return torch.nn.Sequential(*list(model.children())[:-1]).state_dict()


def small(state):
    return {**state, "conv1.weight": torch.randn(64, 3, 3, 3)}


LAYOUTS = {
    "torchvision": (lambda s: s, ""),
    "moco": (
        lambda s: {
            **{f"state_dict.{k}": v for k, v in behind("module.encoder_k.", other(s)).items()},
            **{f"state_dict.{k}": v for k, v in behind("module.encoder_q.", s).items()},
            "state_dict.module.queue": torch.ones(128, 8),
            "optimizer.state.0.momentum_buffer": torch.ones(64, 3, 7, 7),
        },
        "state_dict.module.encoder_q.",
    ),
    "moco v3": (
        lambda s: {
            **behind("state_dict.module.momentum_encoder.", other(s)),
            **behind("state_dict.module.base_encoder.", s, ("fc",)),
            "state_dict.module.base_encoder.fc.0.weight": torch.ones(4, 512),
            "state_dict.module.predictor.0.weight": torch.ones(4, 4),
        },
        "state_dict.module.base_encoder.",
    ),
    "dino": (
        lambda s: {
            **behind("student.module.backbone.", other(s), ("fc",)),
            **behind("teacher.backbone.", s, ("fc",)),
            "teacher.head.mlp.0.weight": torch.ones(4, 512),
        },
        "teacher.backbone.",
    ),
    "lightly": (
        lambda s: {
            **behind("state_dict.backbone_momentum.", other(children(s))),
            **behind("state_dict.backbone.", children(s)),
            "state_dict.projection_head.layers.0.weight": torch.ones(4, 512),
        },
        "state_dict.backbone.",
    ),
    "solo-learn": (
        lambda s: {
            **behind("state_dict.momentum_backbone.", other(s), ("fc",)),
            **behind("state_dict.backbone.", s, ("fc",)),
            "state_dict.classifier.weight": torch.ones(10, 512),
        },
        "state_dict.backbone.",
    ),
    "lightning": (lambda s: behind("state_dict.model.", s), "state_dict.model."),
    "simsiam": (lambda s: behind("state_dict.module.encoder.", s), "state_dict.module.encoder."),
    "compiled": (lambda s: behind("_orig_mod.module.", s), "_orig_mod.module."),
    "before counters": (
        lambda s: {k: v for k, v in s.items() if not k.endswith("num_batches_tracked")},
        "",
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_torchvisions_own_tensors(layout, resnet, tmp_path):
    arrange, prefix = LAYOUTS[layout]
    found, facts = _guess(arrange(resnet), tmp_path)
    assert (found.prefix, facts) == (prefix, {"name": "resnet18", "stem": "imagenet"})
    model = torchvision.models.resnet18()
    missing, unexpected = model.load_state_dict(found.named, strict=False)
    assert (missing, unexpected) == (["fc.weight", "fc.bias"], [])
    for name, tensor in found.named.items():
        assert torch.equal(tensor, resnet[name]), name


@pytest.mark.parametrize("name", ["resnet34", "resnet50"])
def test_depth_and_kind_of_block_are_told_apart(name, tmp_path):
    with torch.device("meta"):
        state = getattr(torchvision.models, name)().state_dict()
    found, facts = _guess(behind("module.", state), tmp_path)
    assert facts == {"name": name, "stem": "imagenet"}
    assert found.heads == ("module.fc.weight", "module.fc.bias")


def test_a_stem_for_small_images_is_seen(resnet, tmp_path):
    assert _guess(small(resnet), tmp_path)[1] == {"name": "resnet18", "stem": "small"}


@pytest.mark.parametrize("prefix", ["", "teacher.backbone.", "state_dict.module.base_encoder."])
def test_a_vit_is_known_by_width_patch_and_positions(prefix, vit, tmp_path):
    found, facts = _guess({**behind(prefix, vit), "optimizer.0": torch.ones(1)}, tmp_path)
    assert facts == {"name": "vit_tiny", "patch": 16, "size": 64}
    vit_tiny.Config().build(64).load_state_dict(found.named)
    assert found.heads[:2] == (f"{prefix}head.weight", f"{prefix}head.bias")


@pytest.mark.parametrize(
    "change",
    [
        lambda s: {k: v for k, v in s.items() if k != "layer3.0.conv1.weight"},
        lambda s: {**s, "layer3.0.conv1.weight": torch.ones(2, 2)},
        lambda s: {**s, "layer3.2.conv1.weight": torch.ones(2, 2)},
        lambda s: {**s, "reg_token": torch.ones(2, 2)},
        lambda s: {"weight": torch.ones(2)},
    ],
    ids=["missing", "shape", "more", "unknown", "nothing"],
)
def test_what_is_no_encoder_of_ours_is_refused_with_the_share(change, resnet, tmp_path):
    with pytest.raises(Problem, match=r"\d+ of \d+ tensors match") as refused:
        _guess(change(resnet), tmp_path)
    assert refused.value.exit == 5


def test_a_checkpoint_becomes_a_file_that_says_where_it_is_from(clctl, resnet, tmp_path):
    source = tmp_path / "moco.pth"
    state = OrderedDict(behind("module.encoder_q.", resnet))
    # As DINO's and Lightning's checkpoints: plain values beside the weights.
    torch.save({"state_dict": state, "args": argparse.Namespace(lr=0.1), "epoch": 3}, source)
    answer = clctl("convert", source, "--to", "safetensors", SAY, "--json")
    assert answer.code == 0, answer.err
    document = answer.document
    assert document["schema"] == "clctl/convert/1"
    assert (document["matched"], document["tensors"]) == (100, 100)
    assert document["encoder"] == {"name": "resnet18", "stem": "imagenet"}
    assert document["dropped"] == ["encoder_q.fc (2 tensors)"]
    written = load_file(tmp_path / "moco.safetensors")
    assert set(written) == {k for k in resnet if not k.startswith("fc")}
    assert all(torch.equal(written[k], resnet[k]) for k in written)


def test_only_a_file_of_its_own_is_replaced(clctl, resnet, tmp_path, monkeypatch):
    monkeypatch.setattr(foreign, "read", lambda path: behind("module.", resnet))
    source, out = tmp_path / "a.pth", tmp_path / "a.safetensors"
    source.write_bytes(b"x")
    first = clctl("convert", source, SAY)
    assert "100 of 100 tensors match, found under module." in first.out
    assert clctl("convert", source, SAY).code == 0
    out.write_bytes(b"mine")
    assert clctl("convert", source, SAY).code == 6
    assert out.read_bytes() == b"mine"


def test_nothing_is_opened_without_trust(clctl, tmp_path):
    source = tmp_path / "a.pth"
    torch.save({"weight": torch.ones(2)}, source)
    answer = clctl("convert", source, "--to", "safetensors")
    assert answer.code == 5
    assert "a program that runs when it is opened" in answer.err
    assert "--i-trust-this-file" in answer.err
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("no.pth", SAY), 5),
        (("a.pth", "--to", "onnx", SAY), 2),
        (("a.pth", SAY, "--out", "weights.bin"), 2),
        (("a.safetensors", SAY), 2),
    ],
)
def test_orders_that_make_no_sense(clctl, tmp_path, monkeypatch, arguments, code):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pth").write_bytes(b"x")
    answer = clctl("convert", *arguments)
    assert answer.code == code
    assert "help:" in answer.err or code == 5


def test_moco_v3s_small_vit_has_other_heads(clctl, tmp_path, monkeypatch):
    state = vit_small.Config(patch=16).build(16).state_dict()
    monkeypatch.setattr(foreign, "read", lambda path: behind("module.base_encoder.", state))
    (tmp_path / "v3.pth").write_bytes(b"x")
    answer = clctl("convert", tmp_path / "v3.pth", SAY)
    assert (answer.code, "12 heads" in answer.err) == (5, True)


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        import os

        return os.system, (f"touch {self.mark}",)


def zipped(content: bytes) -> bytes:
    """A file as torch.save writes it, with a pickle and one storage of these bytes, compressed."""
    file = io.BytesIO()
    torch.save({"weight": torch.zeros(4)}, file)
    packed = io.BytesIO()
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, content if name.endswith("data/0") else old.read(name))
    return packed.getvalue()


def expanded() -> bytes:
    """A view of one number as 40,000,000,000."""
    file = io.BytesIO()
    torch.save({"weight": torch.zeros(1).expand(200_000, 200_000)}, file)
    return file.getvalue()


def greedy() -> bytes:
    """A file of the old format that announces 8 GB of numbers and has 400 kB."""
    file = io.BytesIO()
    torch.save({"weight": torch.zeros(100_000)}, file, _use_new_zipfile_serialization=False)
    told, lie = (number.to_bytes(4, "little") for number in (100_000, 2_000_000_000))
    assert told in file.getvalue()
    return file.getvalue().replace(told, lie)


def whole() -> bytes:
    file = io.BytesIO()
    torch.save({"weight": torch.arange(5000.0)}, file)
    return file.getvalue()


def endless() -> bytes:
    """Dictionaries, each holding the one before under two keys: 2^60 ways to the innermost."""
    tree = {"weight": torch.ones(1)}
    for _ in range(60):
        tree = {"a": tree, "b": tree}
    file = io.BytesIO()
    torch.save({"tree": tree, "empty": {}}, file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda mark: b"", "it is empty"),
        (lambda mark: b"\x89PNG no pickle at all", "it is no file of torch.save"),
        (lambda mark: whole()[:-3000], "it is cut short"),
        (lambda mark: zipped(bytes(90_000_000)), "it unpacks to 90,00"),
        (lambda mark: expanded(), "its tensors would take 160,000,000,000 bytes"),
        (lambda mark: greedy(), "far more memory than a file of its size should"),
        (lambda mark: pickle.dumps(Evil(mark), protocol=2), "run or build posix.system"),
        (lambda mark: pickle.dumps({"a": 1}), "torch cannot read it: Unsupported operand 149"),
    ],
    ids=["empty", "no pickle", "truncated", "bomb", "expanded", "greedy", "code", "plain pickle"],
)
def test_a_hostile_file_is_refused_with_the_reason(make, reason, tmp_path):
    source = tmp_path / "evil.pth"
    source.write_bytes(make(tmp_path / "was-here"))
    with pytest.raises(Problem) as refused:
        foreign.read(source)
    assert refused.value.exit == 5
    assert reason in refused.value.message
    assert "weights_only" not in refused.value.text()
    assert list(tmp_path.iterdir()) == [source]


def test_code_inside_a_file_of_torch_save_does_not_run(clctl, tmp_path):
    source = tmp_path / "e.pth"
    torch.save({"state_dict": {"weight": torch.ones(1)}, "more": Evil(tmp_path / "x")}, source)
    answer = clctl("convert", source, SAY, "--json")
    assert answer.code == 5
    assert "opening it would run or build posix.system, which is no tensor" in answer.err
    assert list(tmp_path.iterdir()) == [source]


def test_a_tree_of_many_ways_ends(tmp_path):
    (tmp_path / "tree.pth").write_bytes(endless())
    assert len(foreign.read(tmp_path / "tree.pth")) == 1
