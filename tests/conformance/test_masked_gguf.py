"""GGUF files of masked models, as `tutti quantize FOLDER OUT F32` writes them: the folder's own logits bit for bit, and the
tensors and keys that llama.cpp's converter writes for the same folder."""

import json
import os
import subprocess
import sys

import gguf
import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import program
import test_masked_experts as masked
import test_training
from closeness import check_same_bits
from gguf_metadata import read_metadata

PEER = program.ROOT / ".cache/peers/llama.cpp"

# The peer's converter, told the name of the pre-tokenizer: it knows those of published tokenizers by their hashes.
CONVERT = """
import runpy, sys
peer, pre, *arguments = sys.argv[1:]
sys.path[:0] = [peer, peer + "/gguf-py"]
import conversion.base
conversion.base.TextModel.get_vocab_base_pre = lambda self, tokenizer: pre
sys.argv = ["convert_hf_to_gguf.py", *arguments]
runpy.run_path(peer + "/convert_hf_to_gguf.py", run_name="__main__")
"""


def ours(folder, out):
    program.run("quantize", "-m", folder, out, "F32", "--json")
    return out


def add_tokenizer(folder):
    """A token for each character of test_training's data, then its end token and its mask."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    letters = [byte_level.pre_tokenize_str(c)[0][0] for c in test_training.CHARACTERS]
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate([*letters, "<end>", "<mask>"])}, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = byte_level, decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>", "<mask>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<end>", "mask_token": "<mask>"}))


@pytest.mark.parametrize("tied", [False, True], ids=["", "tied"])
@pytest.mark.parametrize("family", ["llada", "dream", "sdar"])
def test_gguf_is_the_same_model(family, tied, tmp_path):
    """llada's Q and K rows are permuted in the file and back at load; dream's biases and sdar's norms go along."""
    weights = test_training.random_weights(family, 8, tied)
    folder = test_training.write_folder(tmp_path / "model", family, weights, tied)
    add_tokenizer(folder)
    file = ours(folder, tmp_path / "model.gguf")
    metadata = read_metadata(file)
    assert metadata["tokenizer.ggml.mask_token_id"] == test_training.MASK
    assert metadata["diffusion.shift_logits"] == (family == "dream")
    ids = [int(i) for i in np.random.default_rng(3).integers(0, test_training.VOCAB, 30)]
    logits = [np.array(program.logits(model, ids, test_training.VOCAB, tmp_path / f"{i}.f32"))
              for i, model in enumerate((folder, file))]
    assert np.abs(logits[0]).max() > 0.5
    check_same_bits(family, logits[1], logits[0])


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    return masked.Shelf(tmp_path_factory.mktemp("masked"))


# What only our file says: what follows from the rest, what is false or empty, and of dream what is so when absent.
HEADS = {"attention.key_length", "attention.value_length"}
EMPTY = {"tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token", "tokenizer.ggml.merges"}
ONLY_OURS = {"llada": HEADS | EMPTY - {"tokenizer.ggml.add_bos_token"},
             "dream": EMPTY | {"vocab_size", "rope.dimension_count", "diffusion.shift_logits"},
             "llada-moe": HEADS | EMPTY | {"vocab_size", "rope.dimension_count"}}
# Of llada the peer asks for a BOS whatever the folder's tokenizer does.
OTHERWISE = {"llada": {"general.name", "tokenizer.ggml.add_bos_token"}, "dream": {"general.name"},
             "llada-moe": {"general.name"}}


@pytest.mark.skipif(not (PEER / "convert_hf_to_gguf.py").exists(),
                    reason="llama.cpp is not there: bench/peers/llama.cpp/fetch.sh brings it")
@pytest.mark.parametrize("architecture", ["llada", "dream", "llada-moe"])
def test_as_the_peers_converter(architecture, shelf, tmp_path):
    folder = {"llada": program.ROOT / "weights/sudoku", "dream": program.ROOT / "weights/sudoku-shifted",
              "llada-moe": shelf.folder("llada-moe")}[architecture]
    mine = ours(folder, tmp_path / "ours.gguf")
    metadata = read_metadata(mine)
    theirs = tmp_path / "theirs.gguf"
    done = subprocess.run([sys.executable, "-c", CONVERT, str(PEER), metadata["tokenizer.ggml.pre"], str(folder),
                           "--outfile", str(theirs), "--outtype", "f32"], capture_output=True, text=True, timeout=600,
                          env=os.environ | {"HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    expected = read_metadata(theirs)
    assert expected["general.architecture"] == architecture

    def short(keys):
        return {key.removeprefix(architecture + ".") for key in keys}

    assert short(metadata.keys() - expected.keys()) == ONLY_OURS[architecture]
    assert short(expected.keys() - metadata.keys()) == {"general.size_label"}
    both = metadata.keys() & expected.keys()
    assert short(k for k in both if metadata[k] != expected[k]) == OTHERWISE[architecture]
    stored, wanted = ({t.name: t for t in gguf.GGUFReader(file).tensors} for file in (mine, theirs))
    assert stored.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert stored[name].tensor_type == tensor.tensor_type, name
        assert np.array_equal(stored[name].data, tensor.data), name
    # The program reads the peer's file as its own.
    vocab = len(metadata["tokenizer.ggml.tokens"])
    ids = [i % vocab for i in range(1, 25)]
    logits = [np.array(program.logits(file, ids, vocab, tmp_path / f"{i}.f32")) for i, file in enumerate((mine, theirs))]
    check_same_bits(architecture, logits[1], logits[0])
