"""Random tiny Dimple folders, and the parts of transformers that compute the same: its Qwen2.5-VL tower, its image
processor, its language model with positions of three axes."""

import json

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

VOCAB = 300
MASK, START, END, PAD, VIDEO = 290, 291, 292, 293, 294
VISION = {"depth": 4, "hidden_size": 64, "intermediate_size": 84, "num_heads": 4, "patch_size": 14,
          "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 112, "fullatt_block_indexes": [1, 3],
          "out_hidden_size": 48, "hidden_act": "silu"}
SECTIONS = [4, 2, 2]
TEXT = {"vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False, "hidden_act": "silu", "use_sliding_window": False}
CONFIG = {"architectures": ["DimpleModel"], "model_type": "dimple", **TEXT, "rope_theta": 50000.0,
          "rope_scaling": {"rope_type": "default", "mrope_section": SECTIONS}, "full_attn_mask": True,
          "mask_token_id": MASK, "image_token_id": PAD, "video_token_id": VIDEO, "vision_start_token_id": START,
          "vision_end_token_id": END, "vision_config": VISION}


def hf_model():
    """transformers' Qwen2.5-VL of these sizes in fp64, fp32 weights of a scale at which every part matters."""
    config = Qwen2_5_VLConfig(
        text_config={**TEXT, "rope_parameters": {"rope_type": "default", "rope_theta": 50000.0,
                                                 "mrope_section": SECTIONS}},
        vision_config=VISION, image_token_id=PAD, video_token_id=VIDEO, vision_start_token_id=START,
        vision_end_token_id=END)
    config._attn_implementation = "eager"
    model = Qwen2_5_VLForConditionalGeneration(config).double().eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if "norm" in name or "ln_q" in name:
                p.copy_(1 + 0.3 * noise)
            elif name.endswith("bias"):
                p.copy_(0.3 * noise)
            elif "embed_tokens" in name:
                p.copy_(noise)
            else:
                p.copy_(noise * 1.5 / p[0].numel() ** 0.5)
    return model


def projector():
    generator = torch.Generator().manual_seed(6)
    out, text = VISION["out_hidden_size"], TEXT["hidden_size"]

    def matrix(to, width):
        return torch.randn(to, width, generator=generator) / width ** 0.5

    return {"img_projector.linear_1.weight": matrix(text, out),
            "img_projector.linear_1.bias": 0.3 * torch.randn(text, generator=generator),
            "img_projector.linear_2.weight": matrix(text, text),
            "img_projector.linear_2.bias": 0.3 * torch.randn(text, generator=generator)}


def project(x):
    weights = {name: t.double() for name, t in projector().items()}
    x = torch.nn.functional.linear(x, weights["img_projector.linear_1.weight"], weights["img_projector.linear_1.bias"])
    return torch.nn.functional.linear(torch.nn.functional.silu(x), weights["img_projector.linear_2.weight"],
                                      weights["img_projector.linear_2.bias"])


def tensors(model):
    """The model's weights under Dimple's names."""
    out = dict(projector())
    for name, p in model.state_dict().items():
        name = name.removeprefix("model.").replace("language_model.", "model.")
        out[name] = p.detach().float().contiguous()
    return out


def write_tokenizer(folder):
    """A token per byte, then the special ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fill = [f"<|extra_{i}|>" for i in range(len(alphabet), VOCAB)]
    for text, id in (("<|endoftext|>", 289), ("<|mask|>", MASK), ("<|vision_start|>", START), ("<|vision_end|>", END),
                     ("<|image_pad|>", PAD), ("<|video_pad|>", VIDEO)):
        fill[id - len(alphabet)] = text
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in fill])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>", "mask_token": "<|mask|>"}))


def write_folder(folder, model, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    save_file(tensors(model), folder / "model.safetensors")
    write_tokenizer(folder)
    return folder


def picture(width, height, seed=0):
    """A picture with edges, gradients and noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    rgb = np.stack([x * 255 // max(1, width - 1), y * 255 // max(1, height - 1), (x // 5 + y // 7) % 2 * 255], -1)
    rgb = np.clip(rgb + rng.integers(-40, 40, rgb.shape), 0, 255).astype(np.uint8)
    return Image.fromarray(rgb)


def picture_files(folder):
    """A JPEG and a PNG in `folder`, of sizes that take 6 and 16 places."""
    out = []
    for i, size in enumerate([(84, 56), (112, 112)]):
        out.append(folder / f"{i}.{'png' if i else 'jpg'}")
        picture(*size, seed=i).save(out[-1])
    return out
