"""The gates refuse what they should, say what to do, and the search finds what passes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from smallm_export import gate as gates
from smallm_export.embeddings import compress
from smallm_export.gate import Figures
from smallm_export.quantize import quantize
from smallm_export.ranking import by_help
from smallm_export.search import smallest
from smallm_export.smooth import observe, smooth, weighted_names

from smallm import bundle
from smallm.cli import main
from tests.conftest import SampleDomain

GOOD = Figures(10, 1000, {"served": 0.001, "local": 0.004}, {"served": (0.9, 0.898)}, 0)


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        (GOOD, ""),
        (Figures(10, 1000, {"served": 0.0, "local": 0.006}, None, 0), "0.60 % of its local tags differ"),
        (Figures(10, 1000, {"served": 0.0}, {"served": (0.9, 0.896)}, 0), "served F1 falls from 90.0 to 89.6"),
        (Figures(10, 1000, {"served": 0.0}, None, 1), "1 tags depend on who shares the batch"),
    ],
)
def test_each_bound(figures: Figures, said: str) -> None:
    failures = figures.failures()
    assert len(failures) == bool(said) and said in "".join(failures)


@pytest.mark.parametrize("needed", range(1, 12))
def test_the_search_finds_the_shortest_set_and_leaves_it_made(needed: int) -> None:
    ranked, made = [str(number) for number in range(11)], []

    def attempt(nodes: Sequence[str]) -> int:
        made.append(len(nodes))
        return len(nodes)

    found, result = smallest(ranked, attempt, lambda size: size >= needed)
    assert found == ranked[:needed] and result == needed == made[-1] and len(made) <= 9


def test_the_search_ends_where_nothing_passes() -> None:
    assert smallest(["a", "b", "c"], len, lambda size: False) == (["a", "b", "c"], 3)


def run(path: Path, ids: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, {"ids": ids})[0]
    return found


def _graph(folder: Path, rng: np.random.Generator, loud: float) -> Path:
    """ids -> table -> MatMul, with one input channel `loud` times the others and weights on it as much smaller."""
    table, weight = (rng.normal(size=size).astype(np.float32) for size in ((600, 256), (256, 8)))
    table[:, 3] *= loud
    weight[3] /= loud
    constants = {"table": table, "weight": weight}
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["hidden"], name="lookup"),
        helper.make_node("MatMul", ["hidden", "weight"], ["out"], name="product"),
    ]
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "length"])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", "length", 8])
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [ids], [out], initializers), opset_imports=[helper.make_opsetid("", 18)]
    )
    model.ir_version = 8
    onnx.save(model, folder / "plain.onnx")
    return folder / "plain.onnx"


def test_evening_out_changes_nothing_in_fp32_and_halves_the_error_of_int8(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    plain, ids = _graph(tmp_path, rng, 50), rng.integers(0, 600, (4, 9))
    feeds = [{"ids": rng.integers(0, 600, (1, 30))} for _ in range(8)]
    exact = run(plain, ids)
    even = tmp_path / "even.onnx"
    assert weighted_names(plain) == ["product"]
    smooth(plain, even, observe(plain, feeds), reduce_range=False)
    np.testing.assert_allclose(run(even, ids), exact, rtol=1e-3, atol=1e-3)
    errors = []
    for name, source in (("raw", plain), ("smoothed", even)):
        quantize(source, tmp_path / f"{name}.onnx", feeds, ["product"], reduce_range=False)
        errors.append(float(np.linalg.norm(run(tmp_path / f"{name}.onnx", ids) - exact) / np.linalg.norm(exact)))
    assert errors[1] < errors[0] / 2


def test_what_to_leave_alone_first_is_what_the_output_suffers_from_and_not_what_is_worst_by_itself(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(0)
    path = _graph(tmp_path, rng, 1)
    model = onnx.load(path)
    coarse = rng.normal(size=(256, 8)).astype(np.float32)
    coarse[:, 0] *= 1000  # a tensor's scale for its inputs is set by one channel
    hushed = helper.make_node("MatMul", ["loud", "coarse"], ["product2"], name="hushed")
    model.graph.initializer.extend(
        numpy_helper.from_array(value, name)
        for name, value in (("coarse", coarse), ("loudness", np.r_[np.float32(300), np.ones(255, dtype=np.float32)]))
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(1e-7, dtype=np.float32), "quiet"))
    model.graph.node[-1].output[0] = "product1"
    model.graph.node.extend(
        [
            helper.make_node("Mul", ["hidden", "loudness"], ["loud"], name="louder"),
            hushed,
            helper.make_node("Mul", ["product2", "quiet"], ["whisper"], name="quieter"),
            helper.make_node("Add", ["product1", "whisper"], ["out"], name="sum"),
        ]
    )
    onnx.save(model, path)
    feeds = [{"ids": rng.integers(0, 600, (1, 30))} for _ in range(8)]
    quantize(path, tmp_path / "int8.onnx", feeds, ["product", "hushed"], reduce_range=False)
    assert by_help(path, tmp_path / "int8.onnx", ["hushed", "product"], feeds) == ["product", "hushed"]
    assert by_help(path, tmp_path / "int8.onnx", ["product", "hushed"], feeds) == ["product", "hushed"]


def test_compressed_embeddings_are_a_quarter_and_each_row_is_its_own(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path, ids = _graph(tmp_path, rng, 1), rng.integers(0, 600, (4, 9))
    exact, before = run(path, ids), path.stat().st_size
    compress(path)
    assert path.stat().st_size < before / 3.5
    assert np.linalg.norm(run(path, ids) - exact) < 0.02 * np.linalg.norm(exact)
    np.testing.assert_array_equal(run(path, ids)[2:3, :4], run(path, ids[2:3, :4]))


def test_where_nothing_is_to_be_quantised_nothing_is(tmp_path: Path) -> None:
    plain = _graph(tmp_path, np.random.default_rng(0), 1)
    quantize(plain, tmp_path / "int8.onnx", [], [], reduce_range=False)
    assert (tmp_path / "int8.onnx").read_bytes() == plain.read_bytes()


def test_embeddings_and_every_matmul_can_be_left_alone(model_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    assert main(["export-onnx", str(model_folder), "--out", str(out), "--exclude", "embeddings", "MatMul"]) == 0
    manifest = bundle.read(out)
    made = manifest.variants["int8"].made
    assert made["embeddings"] == "fp32" and "embeddings" in made["excluded"]
    assert out.joinpath(bundle.encoder_file("int8")).stat().st_size > 16_000_000


def test_a_variant_that_fails_is_not_written_unless_told_and_then_says_so(
    model_folder: Path,
    sample: SampleDomain,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gates, "FLIPS", -1.0)  # nothing passes
    out = tmp_path / "bundle"
    command = ["export-onnx", str(model_folder), "--out", str(out), "--variants", "fp32"]
    command += ["--dev", str(sample.folder / "dev.jsonl"), "--answers", str(sample.answers)]
    assert main(command) == 1
    assert "served tags differ from fp32's" in capsys.readouterr().err and list(tmp_path.iterdir()) == []
    assert main([*command, "--no-gate"]) == 0
    manifest = bundle.read(out)
    assert not manifest.variants["fp32"].gated
    gate = manifest.domains["work_orders"].gates["fp32"]
    assert gate["texts"] == 55 and gate["flips"] == {"served": 0.0, "local": 0.0}
    assert gate["f1"]["served"][0] == gate["f1"]["served"][1] > 0.5
    fusion = manifest.variants["fp32"].made["fusion"]
    assert fusion["plain_ms"] > 0 and fusion["fused_ms"] > 0


def test_an_unknown_name_to_exclude_is_refused_with_those_there_are(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "bundle")
    assert main(["export-onnx", str(model_folder), "--out", out, "--exclude", "nonsense"]) == 1
    assert "--exclude nonsense" in (said := capsys.readouterr().err) and "layer.3/output/dense/MatMul" in said
    assert main(["export-onnx", str(model_folder), "--out", out, "--dev", "a=b"]) == 1
    assert "DOMAIN=FILE" in capsys.readouterr().err
