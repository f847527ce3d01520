"""The parts of the accuracy benchmark that need no download."""

import argparse
import io
import tarfile
import zipfile

import numpy as np
import pytest

from benchmarks.accuracy import packages, pages, sound, text
from benchmarks.accuracy.packages import _members
from benchmarks.accuracy.peers import bisect, module_macs, recalibrated
from benchmarks.accuracy.run import Report, best, best_recovered, parser
from benchmarks.accuracy.task import batches, percent, stacked
from benchmarks.accuracy.tasks import TASKS


def test_ctc_drops_blanks_and_repeats():
    characters = ["a", "b", " "]
    assert pages.greedy(np.array([0, 1, 1, 0, 1, 2, 2, 3, 0, 2]), characters) == "aab b"
    assert pages.greedy(np.array([0, 0]), characters) == ""


@pytest.mark.parametrize(
    ("a", "b", "steps"), [("", "abc", 3), ("kitten", "sitting", 3), ("same", "same", 0), ("ab", "", 2)]
)
def test_edit_distance(a, b, steps):
    assert pages.distance(a, b) == pages.distance(b, a) == steps


def test_rendered_lines_are_the_same_each_time_and_differ_by_seed():
    pytest.importorskip("PIL")
    if not (pages.SYSTEM_FONTS / "DejaVuSans.ttf").is_file():
        pytest.skip("no DejaVu fonts on this system")
    texts, images = pages.lines(6, (0,))
    again = pages.lines(6, (0,))
    assert texts == again[0]
    assert all(np.array_equal(a, b) for a, b in zip(images, again[1], strict=True))
    assert texts != pages.lines(6, (1, 0))[0]
    pixels = pages.normalised(images, pages.LINE_WIDTH)
    assert pixels.shape == (6, 3, pages.HEIGHT, pages.LINE_WIDTH)
    assert pixels.min() >= -1
    assert pixels.max() <= 1
    assert (pixels.std((1, 2, 3)) > 0.05).all()  # something is written there


def test_a_tone_has_the_pitch_that_was_asked_for():
    rng = np.random.default_rng(0)
    spectrum = np.abs(np.fft.rfft(sound.tone(69, rng)))
    peaks = np.fft.rfftfreq(sound.SAMPLES, 1 / sound.RATE)[np.argsort(spectrum)[-3:]]
    assert np.abs(peaks / 440 - np.round(peaks / 440)).max() < 0.01


def test_chunks_overlap_by_their_context():
    wave = np.arange(1, 1200, dtype=np.float32)
    rows = sound.chunks(wave)["input"]
    assert rows.shape == (3, sound.CONTEXT + sound.CHUNK)
    assert not rows[0, : sound.CONTEXT].any()
    assert np.array_equal(np.concatenate(rows[:, sound.CONTEXT :])[: len(wave)], wave)
    assert np.array_equal(rows[1, : sound.CONTEXT], rows[0, -sound.CONTEXT :])


def test_noise_is_added_at_the_level_that_was_asked_for():
    rng = np.random.default_rng(0)
    speech = np.sin(np.arange(16000) / 10).astype(np.float32)
    rest = sound.mixed(speech, rng, 6.0) - speech
    assert 10 * np.log10(np.mean(speech**2) / np.mean(rest**2)) == pytest.approx(6.0, abs=0.05)


def test_area_under_the_curve():
    assert sound.auc([0.9, 0.8], [0.1, 0.2]) == 1
    assert sound.auc([0.1], [0.9]) == 0
    assert sound.auc([0.5, 0.5], [0.5]) == 0.5


def test_bytes_of_a_short_and_of_a_long_file():
    short = text.magika_bytes(b"  hello \n")
    assert bytes(short[:7].astype(np.uint8)) == b"hello \n"
    assert bytes(short[-7:].astype(np.uint8)) == b"  hello"
    assert (short[7:-7] == 256).all()
    long = text.magika_bytes(b"x" * 9000 + b"end ")
    assert (long[:1024] == ord("x")).all()
    assert bytes(long[-3:].astype(np.uint8)) == b"end"


def test_logistic_regression_finds_the_minimum():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3))
    y = x @ [1.0, -2.0, 0.5] + 0.3 + rng.normal(size=200) > 0
    w = text.logistic(x, y, 10.0)

    def loss(w):
        margin = np.where(y, 1, -1) * (x @ w[:-1] + w[-1])
        return 10 * np.log1p(np.exp(-margin)).sum() + w[:-1] @ w[:-1] / 2

    steps = 1e-2 * np.concatenate([np.eye(4), -np.eye(4)])
    assert all(loss(w) < loss(w + step) for step in steps)


def test_mail_is_subject_and_body():
    source = "Subject: Cheap\nContent-Type: text/plain\n\nBuy now\n"
    assert text.mail_text(source) == "Cheap Buy now\n"
    assert len(text.mail_text("Subject: s\n\n" + "y" * 5000)) < 1000


def test_ratio_search_meets_the_limit_and_hardly_more():
    ratio = bisect(lambda r: round(1000 * (1 - r) ** 2), 500, 0.0, 0.95)
    assert round(1000 * (1 - ratio) ** 2) <= 500
    assert ratio == pytest.approx(1 - np.sqrt(0.5), abs=2e-3)
    assert bisect(lambda _: 100, 50, 0.0, 0.9) is None


def test_macs_of_a_module_are_those_of_its_file():
    torch = pytest.importorskip("torch")
    import graphprune as gp
    from benchmarks.measure import dense_macs

    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, stride=2, padding=1),
        torch.nn.Conv2d(8, 8, 3, groups=8),
        torch.nn.Flatten(),
        torch.nn.Linear(8 * 6 * 6, 5),
    ).eval()
    image = torch.randn(1, 3, 16, 16)
    by_hand = 8 * 3 * 9 * 64 + 8 * 9 * 36 + 288 * 5
    assert module_macs(net, image) == by_hand == dense_macs(gp.analyze(net, example_inputs=image))


def test_recalibrated_norms_hold_the_statistics_of_the_samples():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.Dropout(0.9))
    data = np.random.default_rng(0).normal(2, 3, (40, 3, 4, 4)).astype(np.float32)
    fresh = recalibrated(net, list(batches({"x": data}, 20)))
    assert np.allclose(fresh[0].running_mean.numpy(), data.mean((0, 2, 3)), atol=1e-5)
    assert np.allclose(fresh[0].running_var.numpy(), data.var((0, 2, 3)), rtol=0.02)
    assert not fresh.training
    assert torch.equal(net[0].running_mean, torch.zeros(3))


def test_members_of_archives(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as wheel:
        wheel.writestr("pkg/data/one.png", b"1")
        wheel.writestr("pkg/other/two.txt", b"2")
    with tarfile.open(tmp_path / "b.tar", "w") as tar:
        for name in ("./top/voice/digits/0.wav", "./top/voice/silence/1.wav"):
            info = tarfile.TarInfo(name)
            info.size = 3
            tar.addfile(info, io.BytesIO(b"wav"))
    assert dict(_members(tmp_path / "a.whl", r"pkg/data/.*\.png$")) == {"one.png": b"1"}
    assert dict(_members(tmp_path / "b.tar", r"voice/(?P<name>digits/.*\.wav)$")) == {"digits-0.wav": b"wav"}


def test_every_folder_is_pinned_by_its_contents():
    assert all(len(folder.sha256) == 64 for folder in packages.FOLDERS.values())


def test_stacked_outputs_of_any_predictor():
    data = {"x": np.arange(10.0), "y": np.ones(10)}
    found = stacked(lambda feed: [feed["x"] + feed["y"]], data, batch=4)
    assert np.array_equal(found, data["x"] + 1)
    assert percent(found > 5) == 50


def test_cells_and_reasons_of_the_report():
    report = Report()
    rows = [{"measures": {"top-1": 80.0}}, {"measures": {"top-1": 82.0}}]
    assert report.cell("a", rows, "top-1") == "81.0 ± 1.0"
    assert report.cell("b", [{"failed": "no option data"}], "top-1") == "-"
    assert list(report.reasons) == ["b: no option data"]


def test_the_best_of_a_peer_skips_what_failed():
    row = {
        "tried": {
            "L1": {"plain": {"m": 1.0}, "recovered": {"refit": {"m": 3.0}, "norm": {"failed": "x"}}},
            "L2": {"plain": {"m": 2.0}},
            "LAMP": {"failed": "crash"},
        }
    }
    assert best(row, "plain", "m") == ("L2", 2.0)
    assert best_recovered(row, "m") == ("L1, refit", 3.0)
    assert best({}, "plain", "m") is None


def test_tasks_are_named_and_options_parse():
    assert all(name == task.name and task.targets for name, task in TASKS.items())
    options = parser("x").parse_args(["resnet", "--timeout", "2"])
    assert isinstance(options, argparse.Namespace)
    assert (options.pattern, options.timeout) == ("resnet", 2)
