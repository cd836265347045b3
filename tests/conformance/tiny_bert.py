"""BERTs of random weights with a WordPiece vocabulary, as folders that transformers wrote."""

import json

import torch
import transformers
from mixed_text import corpus
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def wordpiece(vocabulary=600):
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=vocabulary, special_tokens=SPECIAL, show_progress=False,
                                        limit_alphabet=200)
    tokenizer.train_from_iterator(corpus(100_000), trainer)
    marks = [(mark, tokenizer.token_to_id(mark)) for mark in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", special_tokens=marks)
    return tokenizer


def randomise(model, seed):
    """Every parameter, also those that start as zeros and ones."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = 0.2 if parameter.dim() < 2 else 1.3 * parameter.shape[-1] ** -0.5
            parameter.normal_(1.0 if name.endswith("LayerNorm.weight") else 0.0, spread)
    return model.eval()


def make_model(folder, seed=3, kind=transformers.BertModel, **changes):
    """Writes the folder; returns the model in double precision, and the tokenizer."""
    tokenizer = wordpiece()
    sizes = dict(vocab_size=tokenizer.get_vocab_size(), hidden_size=64, num_hidden_layers=3, num_attention_heads=4,
                 intermediate_size=160, max_position_embeddings=96)
    model = randomise(kind(transformers.BertConfig(**(sizes | changes))), seed)
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"cls_token": "[CLS]", "sep_token": "[SEP]"}))
    return model.double(), tokenizer
