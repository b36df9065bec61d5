"""The evaluations on a checkpoint and on files of features, as a user would type them."""

import numpy as np
import pytest
import torch
from conftest import photographs
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import balanced_accuracy_score, confusion_matrix
from sklearn.neighbors import KNeighborsClassifier

from clctl.commands import embed as embedding
from clctl.commands import finetune as tuning
from clctl.evaluate.intervals import wilson
from clctl.store import tensors


@pytest.fixture
def features(trained, clctl, tmp_path):
    """The features of the run's data in a file."""
    path = tmp_path / "features.npz"
    assert clctl("embed", trained[0], "-o", path).code == 0
    return path


def test_several_k_are_told_and_one_is_chosen_without_the_test_part(trained, clctl):
    plain = clctl("knn-eval", trained[0], "--json").document
    found = clctl(
        "knn-eval", trained[0], "--k", "1,5,20", "--temperature", "0.07,1", "--json"
    ).document
    assert set(found["metrics_by_k"]) == {"1", "5", "20"}
    assert len(found["grid"]) == 6
    chosen = found["protocol"]["k"], found["protocol"]["temperature"]
    assert found["protocol"]["chosen_on"] == "a held-out tenth of train"
    held = {(c["k"], c["temperature"]): c["held_out_top1"] for c in found["grid"]}
    assert held[chosen] == max(held.values())
    top = {(c["k"], c["temperature"]): c["top1"] for c in found["grid"]}
    assert found["metrics"]["top1"] == top[chosen]
    assert top[20, 0.07] == plain["metrics"]["top1"]
    assert plain["protocol"]["chosen_on"] == "nothing was chosen"
    assert set(plain["metrics_by_k"]) == {"20"}


def test_protocols_by_name(trained, clctl):
    lightly = clctl("knn-eval", trained[0], "--protocol", "lightly", "--json").document
    assert lightly["protocol"]["name"] == "lightly"
    assert (lightly["protocol"]["k"], lightly["protocol"]["temperature"]) == (200, 0.1)
    plain = clctl("knn-eval", trained[0], "--k", 200, "--temperature", 0.1, "--json").document
    assert plain["metrics"] == lightly["metrics"]
    assert clctl("knn-eval", trained[0], "--protocol", "lightly", "--k", 5).code == 2
    assert "clctl, lightly, dino" in clctl("knn-eval", trained[0], "--protocol", "x").err
    for wrong in ("0", "1,0", "x", "1.5", "inf"):
        assert clctl("knn-eval", trained[0], "--k", wrong).code == 2


def test_metrics_of_classes_are_those_of_scikit_learn(trained, clctl):
    report = clctl("knn-eval", trained[0], "--json").document
    with np.load(trained[0] / "evaluations" / "knn-eval-digits-test-k20-t0.07.npz") as kept:
        truth, said = kept["labels"], kept["predictions"]
    assert report["confusion"] == confusion_matrix(truth, said).tolist()
    balanced = balanced_accuracy_score(truth, said)
    assert report["metrics"]["balanced_accuracy"] == pytest.approx(balanced)
    assert [row["images"] for row in report["per_class"]] == np.bincount(truth).tolist()
    assert report["data"]["overlap"] == {"identical": 0, "with": "train", "named": []}


def test_fewer_labels_give_a_curve_beside_random_weights(trained, clctl):
    answer = clctl(
        *("linear-probe", trained[0], "--label-fraction", "0.02,1", "--seeds", 2, "--json")
    )
    few, whole = answer.document["curve"]
    assert (few["images"], whole["images"]) == (30, 1437)
    assert few["top1"] < whole["top1"]
    assert few["top1_by_seed"][0] != few["top1_by_seed"][1]
    assert few["interval_over"] in ("images", "seeds")
    assert few["ci95"][0] <= wilson(round(few["top1"] * 360), 360)[0]
    assert few["ci95"][1] >= wilson(round(few["top1"] * 360), 360)[1]
    assert 0.1 < few["random_init"]["top1"] < whole["random_init"]["top1"]
    seeds = answer.document["seeds"]
    assert seeds["mean"] == pytest.approx(answer.document["metrics"]["top1"])
    assert seeds["ci95"][0] <= seeds["mean"] <= seeds["ci95"][1]
    assert clctl("linear-probe", trained[0], "--label-fraction", "2").code == 2
    assert clctl("linear-probe", trained[0], "--seeds", "0").code == 2
    alone = clctl("linear-probe", trained[0], "--split", "all", "--label-fraction", "0.1")
    assert (alone.code, "--label-fraction" in alone.err) == (2, True)


def test_the_sgd_probe_chooses_a_rate_on_held_out_train(trained, clctl):
    answer = clctl("linear-probe", trained[0], "--protocol", "sgd", "--epochs", 2, "--json")
    report, protocol = answer.document, answer.document["protocol"]
    held = protocol["held_out_top1"]
    assert held[f"{protocol['rate']:g}"] == max(held.values())
    assert report["metrics"]["top1"] > 0.5
    assert report["baselines"]["pixels"] is None
    assert report["baselines"]["random_init"] > 0.2
    assert "hflip" not in protocol["views"]  # the recipe of the digits flips none
    assert clctl("linear-probe", trained[0], "--protocol", "adam").code == 2


def test_finetune_beside_random_weights(trained, clctl, monkeypatch):
    monkeypatch.setattr(tuning, "FEWEST", 25)
    before = sorted((trained[0] / "checkpoints").rglob("*.safetensors"))
    content = [path.read_bytes() for path in before]
    report = clctl("finetune", trained[0], "--epochs", 1, "--json").document
    assert report["schema"] == "clctl/finetune/1"
    assert report["protocol"]["steps"] == 25
    assert report["protocol"]["layer_decay"] == 1  # 0.75 is for ViTs
    assert report["metrics"]["top1"] > report["baselines"]["random_init"] > 0.1
    assert [path.read_bytes() for path in before] == content
    few = clctl(
        *("finetune", trained[0], "--blocks", 0, "--label-fraction", "0.05", "--epochs", 1),
        "--json",
    ).document
    assert few["curve"][0]["images"] == 70
    assert few["curve"][0]["random_init"]["top1"] == few["baselines"]["random_init"]
    for wrong in (("--blocks", 99), ("--lr", 0), ("--layer-decay", 2), ("--epochs", 0)):
        assert clctl("finetune", trained[0], *wrong).code == 2
    alone = clctl("finetune", trained[0], "--split", "all")
    assert (alone.code, "training part" in alone.err) == (4, True)


def test_retrieval_counts_what_neighbours_are(trained, features, clctl):
    report = clctl("retrieval", trained[0], "--json").document
    with np.load(features) as arrays:
        train = arrays["splits"] == "train"
        x, y = arrays["features"], arrays["labels"]
    nearest = KNeighborsClassifier(1, metric="cosine").fit(x[train], y[train])
    assert report["metrics"]["recall_at_1"] == pytest.approx(nearest.score(x[~train], y[~train]))
    assert report["metrics"]["recall_at_1"] == report["metrics"]["precision_at_1"]
    assert report["baselines"]["random_init"]["map_at_r"] < report["metrics"]["map_at_r"] < 1
    assert clctl("retrieval", features, "--json").document["metrics"] == report["metrics"]
    assert clctl("retrieval", trained[0], "--fail-under", "map_at_r=0.999").code == 1
    assert clctl("retrieval", trained[0], "--k", "0").code == 2


def test_a_file_of_features_scores_as_its_checkpoint(trained, features, clctl, tmp_path):
    for command in ("knn-eval", "linear-probe"):
        own, file = (clctl(command, s, "--json").document for s in (trained[0], features))
        assert file["metrics"] == own["metrics"]
        assert file["baselines"]["random_init"] is None
        assert file["baselines"]["majority"] == own["baselines"]["majority"]
    tensors = tmp_path / "f.safetensors"
    clctl("embed", trained[0], "-o", tensors)
    assert clctl("knn-eval", tensors, "-q").out == clctl("knn-eval", features, "-q").out
    parts = [tmp_path / "train.npz", tmp_path / "test.npz"]
    for path in parts:
        assert clctl("embed", trained[0], "--split", path.stem, "-o", path).code == 0
    two = clctl("knn-eval", parts[0], "--data", parts[1], "-q")
    assert two.out == clctl("knn-eval", features, "-q").out


def test_embed_continues_after_a_stop(trained, features, clctl, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding, "BATCH", 200)
    whole, path, add = tmp_path / "whole.npz", tmp_path / "stopped.npz", embedding._Draft.add
    assert clctl("embed", trained[0], "-o", whole).code == 0

    def stop(draft, rows):
        if draft.rows >= 600:
            raise KeyboardInterrupt
        add(draft, rows)

    monkeypatch.setattr(embedding._Draft, "add", stop)
    assert clctl("embed", trained[0], "-o", path).code == 130
    assert not path.exists()
    monkeypatch.setattr(embedding._Draft, "add", add)
    answer = clctl("embed", trained[0], "-o", path, "--json")
    assert "continuing after 600" in answer.err
    assert answer.document["features"] == [1797, 256]
    with np.load(path) as one, np.load(whole) as other:
        assert all((one[key] == other[key]).all() for key in other.files)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    assert clctl("embed", trained[0], "-o", tmp_path / "x.csv").code == 2


def test_diagnose_of_a_checkpoint_and_of_any_file(trained, clctl, tmp_path):
    report = clctl("diagnose", trained[0], "--json").document
    assert report["schema"] == "clctl/diagnose/1"
    assert report["verdict"] == "healthy"
    metrics = report["metrics"]
    assert metrics["mutual_information_bound"] < metrics["mutual_information_ceiling"]
    assert metrics["mutual_information_ceiling"] == pytest.approx(np.log(360))
    assert report["baselines"]["random_init"]["rank_me"] > 1
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(500, 7)) @ rng.normal(size=(7, 64))
    np.save(tmp_path / "flat.npy", flat)
    found = clctl("diagnose", tmp_path / "flat.npy", "--json").document
    assert found["verdict"] == "dimensional collapse at rank 7"
    assert found["metrics"]["rank_me"] < 7.5
    np.save(tmp_path / "point.npy", np.ones((50, 8), np.float32))
    assert clctl("diagnose", tmp_path / "point.npy", "-q").out.strip() == "collapsed"


def test_compare_runs_files_and_predictions(trained, features, clctl, tmp_path):
    run = trained[0]
    predictions = run / "evaluations" / "knn-eval-digits-test-k20-t0.07.npz"
    same = clctl("compare", run, features, predictions, "--json").document
    assert same["schema"] == "clctl/compare/1"
    assert [d["difference"] for d in same["differences"]] == [0, 0, 0]
    assert not same["differences"][0]["significant"]
    with np.load(predictions) as arrays:
        worse = dict(arrays)
    right = np.flatnonzero(worse["predictions"] == worse["labels"])
    worse["predictions"][right[:18]] = (worse["labels"][right[:18]] + 1) % 10
    np.savez(tmp_path / "worse.npz", **worse)
    found = clctl("compare", run, tmp_path / "worse.npz", "--json").document["differences"][0]
    assert found["difference"] == pytest.approx(-18 / 360)
    assert found["ci95"][0] < -0.05 < found["ci95"][1] < 0
    assert (found["only_a_right"], found["only_b_right"]) == (18, 0)
    assert found["significant"]
    failed = clctl("compare", run, tmp_path / "worse.npz", "--fail-on-drop", "top1=0.005")
    assert (failed.code, "is better than" in failed.out) == (1, True)
    assert clctl("compare", run, tmp_path / "worse.npz", "--fail-on-drop", "top1=0.06").code == 0
    assert "| a | b |" in clctl("compare", run, tmp_path / "worse.npz", "--markdown").out
    worse["fingerprint"] = np.array("another")
    np.savez(tmp_path / "other.npz", **worse)
    refused = clctl("compare", run, tmp_path / "other.npz")
    assert (refused.code, "the data differ" in refused.err) == (4, True)
    assert clctl("compare", run).code == 2
    assert clctl("compare", run, features, "--fail-on-drop", "top1=2").code == 2


def test_a_test_part_that_is_the_train_part_is_said_loudly(trained, clctl, tmp_path):
    for part in ("train", "test"):
        for seed, name in enumerate(("red", "blue")):
            photographs(tmp_path / "twins" / part / name, 8, seed=seed)
    answer = clctl("knn-eval", trained[0], "--data", tmp_path / "twins", "--json")
    assert "WARNING: all 16 test images have an identical one in train" in answer.err
    assert answer.document["data"]["overlap"]["identical"] == 16
    assert answer.document["data"]["overlap"]["named"][0][0].startswith("test/")


def test_the_weights_that_a_run_started_from_are_a_baseline(trained, clctl, tmp_path):
    again = tmp_path / "again"
    few = ("--set", "train.epochs=1")
    clctl("pretrain", "byol", *few, "--init-from", trained[0], "--out", again)
    report = clctl("knn-eval", again, "--json")
    start = clctl("knn-eval", trained[0], "--json").document["metrics"]["top1"]
    assert report.document["baselines"]["initial"] == start
    (again / "initial.safetensors").unlink()
    gone = clctl("knn-eval", again, "--json")
    assert gone.document["baselines"]["initial"] is None
    assert "initial.safetensors: no such baseline" in gone.err


def test_features_that_are_not_finite_are_refused(trained, clctl, tmp_path):
    source = max((trained[0] / "checkpoints").rglob("model.safetensors"))
    weights, metadata = tensors.read(source)
    weights["encoder.conv1.weight"][0] = float("nan")
    tensors.write(tmp_path / "nan.safetensors", weights, metadata)
    for command in (("knn-eval",), ("linear-probe",), ("diagnose",), ("retrieval",)):
        answer = clctl(*command, tmp_path / "nan.safetensors")
        assert (answer.code, "360 of 360 images" in answer.err or "1437 of" in answer.err) == (
            7,
            True,
        )
    assert clctl("embed", tmp_path / "nan.safetensors", "-o", tmp_path / "f.npz").code == 7
    assert not (tmp_path / "f.npz").exists()


def test_layers_are_for_vits(trained, clctl, tmp_path):
    refused = clctl("knn-eval", trained[0], "--layers", 2)
    assert (refused.code, "vit_tiny" in refused.err) == (2, True)
    vit = ("--set", "encoder={name: vit_tiny, patch: 4}", "--set", "train.epochs=1")
    run = tmp_path / "vit"
    few = ("--set", "train.batch_size=512")
    assert clctl("pretrain", "simclr", *vit, *few, "--out", run, "-q").code == 0
    report = clctl("knn-eval", run, "--layers", 2, "--json").document
    assert report["checkpoint"]["layers"] == 2
    assert clctl("embed", run, "--layers", 2, "--split", "test", "-o", tmp_path / "v.npy").code == 0
    assert np.load(tmp_path / "v.npy").shape == (360, 3 * 192)
    assert clctl("knn-eval", run, "--layers", 13).code == 2


def test_layers_are_class_tokens_and_the_mean_of_patches():
    from clctl.encoders._vit import ViT

    vit = ViT(16, 4, 64, "cls", 0.0, False).eval()
    x = torch.randn(2, 3, 16, 16)
    seen = vit.layers(x, 2)
    tokens = vit.tokens(x)
    torch.testing.assert_close(seen[:, 64:128], tokens[:, 0])
    torch.testing.assert_close(seen[:, 128:], tokens[:, 1:].mean(dim=1))
    assert not torch.allclose(seen[:, :64], seen[:, 64:128])


def features_file(path, **arrays):
    rng = np.random.default_rng(1)
    whole = {"features": rng.normal(size=(40, 6)), "labels": np.arange(40) % 2, **arrays}
    np.savez(path, **{key: value for key, value in whole.items() if value is not None})
    return path


@pytest.mark.parametrize(
    ("arrays", "needle"),
    [
        ({"features": None}, "no array called features"),
        ({"features": np.full((40, 6), np.nan)}, "40 of 40 rows of features that are not finite"),
        ({"features": np.zeros((39, 6))}, "labels int64 [40] for 39 rows"),
        ({"features": np.zeros((40, 6), np.int32)}, "floating point [N, D] is wanted"),
        ({"features": np.zeros((0, 6))}, "floating point [N, D] is wanted"),
        ({"labels": None}, "no labels"),
        ({"labels": np.zeros(40, np.int64)}, "one class"),
        ({"ids": np.array(["a"] * 40)}, "there twice"),
        ({"splits": np.array(["train"] * 39 + ["exam"])}, "exam"),
        ({"classes": np.array(["one"])}, "do not number them"),
        ({"features": np.array([[None] * 6] * 40)}, "Python objects"),
    ],
)
def test_a_wrong_file_of_features_is_refused_with_what_is_wrong(arrays, needle, clctl, tmp_path):
    answer = clctl("knn-eval", features_file(tmp_path / "f.npz", **arrays))
    assert answer.code == 4
    assert needle in answer.err


def test_files_of_features_that_do_not_fit_are_refused(clctl, tmp_path):
    one = features_file(tmp_path / "one.npz")
    wide = features_file(tmp_path / "wide.npz", features=np.ones((40, 9)))
    assert "features of 9 numbers" in clctl("knn-eval", one, "--data", wide).err
    assert clctl("knn-eval", one, "--data", wide).code == 4
    more = features_file(tmp_path / "more.npz", labels=np.arange(40) % 3)
    assert "classes that" in clctl("knn-eval", one, "--data", more).err
    whole = one.read_bytes()
    for cut in range(1, 16):
        (tmp_path / "cut.npz").write_bytes(whole[: len(whole) * cut // 16])
        assert clctl("diagnose", tmp_path / "cut.npz").code == 4
    assert clctl("finetune", one).code == 2
    assert clctl("diagnose", one, "--data", "digits").code == 2


def test_fewer_samples_than_k_and_a_class_with_one(clctl, tmp_path):
    labels = np.arange(40) % 2
    labels[0] = 2
    path = features_file(tmp_path / "f.npz", labels=labels)
    answer = clctl("knn-eval", path, "--k", 500, "--json")
    assert answer.document["protocol"]["k"] == 39
    assert "k 500 is more than the 39 neighbours" in answer.err
    assert clctl("retrieval", path, "--json").document["without"] == 1
    probe = clctl("linear-probe", path)
    assert (probe.code, "5 folds" in probe.err) == (4, True)


def test_labelled_pictures_that_a_run_never_saw_are_all_scored(trained, clctl, tmp_path):
    """A fifth of 60 pictures would tell nothing; each is scored by the others instead."""
    images, labels = load_digits(return_X_y=True)
    for label in range(3):
        (tmp_path / f"digit {label}").mkdir()
        for i, pixels in enumerate(images[labels == label][:20]):
            picture = Image.fromarray((pixels.reshape(8, 8) * 15).astype("uint8"))
            picture.save(tmp_path / f"digit {label}" / f"{i}.png")
    for command, how in (("knn-eval", "leave-one-out"), ("linear-probe", "stratified 5-fold")):
        answer = clctl(command, trained[0], "--data", tmp_path, "--json")
        report = answer.document
        assert report["protocol"]["how"] == how
        assert report["data"]["test_images"] == 60
        low, high = report["top1_ci95"]
        assert low < report["metrics"]["top1"] <= high
        assert "set aside" not in answer.err
    several = clctl("knn-eval", trained[0], "--data", tmp_path, "--k", "1,5", "--json")
    assert several.document["data"]["test_images"] == 12  # choosing k needs a train part
    assert "set aside" in several.err


def test_a_handful_of_labelled_pictures_is_scored_whole(trained, clctl, tmp_path):
    """Four of a class are enough for neighbours, and too few for five folds."""
    images, labels = load_digits(return_X_y=True)
    for label, name in enumerate(("-rf", "a $(b)", "two\nlines")):
        (tmp_path / name).mkdir()
        for i, pixels in enumerate(images[labels == label][:4]):
            picture = Image.fromarray((pixels.reshape(8, 8) * 15).astype("uint8"))
            picture.save(tmp_path / name / f"{i}.png")
    counts = {}
    for command in ("knn-eval", "retrieval", "linear-probe"):
        answer = clctl(command, trained[0], "--data", tmp_path, "--json")
        counts[command] = answer.document["data"]["test_images"]
    assert counts == {"knn-eval": 12, "retrieval": 12, "linear-probe": 3}
    told = clctl("knn-eval", trained[0], "--data", tmp_path)
    (worst,) = [line for line in told.out.splitlines() if line.startswith("  weakest")]
    assert all(name in worst for name in ("-rf", "a $(b)", "'two\\nlines'"))
